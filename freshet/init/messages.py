"""Every message that `freshet init` can write: its errors, and what it asks people to look at.

`docs/data.md` has each of them with what to do; a test holds the two together.
"""

from freshet.errors import InitError

ERRORS = {
    "there already": "{out}: already exists; use --out FILE for another name, or --force to replace it",
    "not written": "{out}: the config cannot be written: {why}",
    "folder": "{path}: is a folder; name one file in it (only MovieLens and MovieTweetings are read "
    "as folders)",
    "exported": "{path}: was written by `freshet export` and describes its own columns; use the "
    "config that it was exported with",
    "events": "{path}: holds events, with slates of candidates; send them with `freshet produce "
    "--events` and a config that names their features",
    "foreign": "{path}: is in the format of {name}; this command makes a table of it:\n  {command}",
    "empty": "{path}: is empty",
    "blank": "{path}: has only blank lines",
    "one column": "{path}: looks like a single column; expected a table with a label, a time and "
    "features, separated by tabs, commas, semicolons, bars or spaces",
    "names only": "{path}: has a header line and nothing else",
    "twice": "{path}:{line}: two columns have the name {name!r}; rename one",
    "no columns": "{path}: has no columns",
    "not parquet": "{path}: cannot be read as Parquet: {why}",
    "not utf-8": "{path}: is not UTF-8 text ({why} near line {line}); try `iconv -f {encoding} -t utf-8`",
    "damaged": "{path}: the gzip file is damaged: {why}",
    "unreadable": "{path}: cannot be read: {why}",
    "too bad": "{path}: {bad:,} of {lines:,} lines cannot be used, more than {most:.0%}; the first: "
    "{first}. Expected a table: correct the lines, or name another file",
    "no line": "{path}: no line can be used; the first: {first}",
    "no such column": "{path}: --label names {name!r}; the columns are {names}",
    "no bar": "{path}: no column is clearly the label. Choose a column, and the value from which it "
    "counts as 1:\n{offers}",
    "no label": "{path}: no column looks like a label: expected 0 and 1, a rating, or words such as "
    "view and buy; the columns are {names}. Name the column with --label NAME, and for numbers "
    "--positive-from X",
    "bar": "{path}: --positive-from {bar:g} does not split the labels: {share} of the lines of "
    "{name} reach it. Its numbers range from {low:g} to {high:g}; for example:\n{offers}",
    "bar alone": "--positive-from needs --label COLUMN: the column to compare",
    "bar of words": "{path}: --positive-from compares numbers, but {name} has other values, such as "
    "{example}",
    "label alone": "{path}: {name} has only one value, {value}, so there is nothing to learn; name "
    "another label with --label NAME",
    "label of nothing": "{path}: {name} has {distinct:,} different values, such as {example}, so it "
    "is not a label; name another with --label NAME",
    "no feature": "{path}: no column is left as a feature{reasons}. Try more lines, or write the "
    "config by hand",
    "does not fit": "{path}: the first lines do not match {source}: {why}",
    "no example": "{path}: no line can be used with {source}",
}

LOOK_AT = {
    "guess": "data.{key}: a guess{also}",
    "feature": "features.{name}: a guess, {kind}",
    "over": "data.features: {count} columns are left out, from {first} on: {why}",
    "leak": "data.features: {name} is left out: {why}",
    "no time": "data.time: no column looks like a time, so lines count as one second apart{like}",
    "one label": "data.label: always {value} in the sample, so there is nothing to learn",
    "decimal": "data.decimal: a guess; {why}",
    "skip bad": "data.skip_bad: {bad:,} of {lines:,} lines cannot be used and are left out; the "
    "first: {first}",
    "unlabelled": "data.unlabelled: {share:.0%} of the lines have no label ({what}) and are left out",
    "words": "data.positive: {words} counts as 0: the word is unknown; if you want more of it, add "
    "it to positive",
    "outcomes": "data.label: {others} look like outcomes too; the label is {name}, because {why}",
    "target": "targets.{name}: a further target{of}; {why}",
    "no target": "data.labels: {name} looks like an outcome and is no further target: {why}",
}


def error(message: str, /, **values: object) -> InitError:
    """The error with this key."""
    return InitError(ERRORS[message].format(**values))


def look_at(message: str, /, **values: object) -> str:
    """What people are asked to look at."""
    return LOOK_AT[message].format(**values)
