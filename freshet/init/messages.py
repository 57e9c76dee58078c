"""Every message that `freshet init` can write: its errors, and what it asks people to look at.

`docs/data.md` has each of them with what to do; a test holds the two together.
"""

from freshet.errors import InitError

ERRORS = {
    "there already": "{out}: is there already; write elsewhere with --out FILE, or over it with --force",
    "not written": "{out}: the config cannot be written: {why}",
    "folder": "{path}: is a folder; name one file in it (only folders of ratings are read whole)",
    "exported": "{path}: was written by `freshet export`, and what is in it has its roles already; "
    "the config that it was exported with fits",
    "events": "{path}: these are events as producers send them, with slates of candidates; send them "
    "with `freshet produce --events`, with a config that names their features",
    "foreign": "{path}: is in the format of {name}; this makes a table of it:\n  {command}",
    "empty": "{path}: is empty",
    "blank": "{path}: has only blank lines",
    "one column": "{path}: looks like one column only; expected a table with a label, a time and "
    "features, its cells between tabs, commas, semicolons, bars or spaces",
    "names only": "{path}: has a line of names and nothing else",
    "twice": "{path}:{line}: two columns have the name {name!r}; rename one",
    "no columns": "{path}: has no columns",
    "not parquet": "{path}: cannot be read as Parquet: {why}",
    "not utf-8": "{path}: is no text in UTF-8 ({why} near line {line}); `iconv -f {encoding} -t "
    "utf-8` may help",
    "damaged": "{path}: the gzip file is damaged: {why}",
    "unreadable": "{path}: cannot be read: {why}",
    "too bad": "{path}: {bad:,} of {lines:,} lines cannot be used, more than {most:.0%}; the first: "
    "{first}. Expected a table: mend the lines, or name another file",
    "no line": "{path}: there is no line in it that can be used; the first: {first}",
    "no such column": "{path}: --label names {name!r}; the columns are {names}",
    "no bar": "{path}: no column says by itself what was liked. Say which one does, and from where "
    "on it counts as 1:\n{offers}",
    "no label": "{path}: no column looks like a label: expected one of 0 and 1, a rating, or words "
    "such as view and buy; the columns are {names}. Freshet learns from what was liked and what was "
    "not: name the column with --label NAME, and for numbers --positive-from X",
    "bar": "{path}: --positive-from {bar:g} parts nothing: of {name} {share} of the lines reach it. "
    "Its numbers are from {low:g} to {high:g}; for example:\n{offers}",
    "bar alone": "--positive-from goes with --label COLUMN: say which column is compared",
    "bar of words": "{path}: --positive-from compares numbers, and {name} holds others, as {example}",
    "label alone": "{path}: {name} has only one value, {value}: nothing can be told apart; name "
    "another label with --label NAME",
    "label of nothing": "{path}: {name} has {distinct:,} different values, as {example}: that is no "
    "label; name another with --label NAME",
    "no feature": "{path}: no column is left that could be a feature{reasons}. More lines may help, "
    "or a config written by hand",
    "does not fit": "{path}: the first lines do not fit what {source} says: {why}",
    "no example": "{path}: there is no line in it that can be used as {source} says",
}

LOOK_AT = {
    "guess": "data.{key}: a guess{also}",
    "feature": "features.{name}: a guess, {kind}",
    "over": "data.features: {count} columns are left out, from {first} on: {why}",
    "leak": "data.features: {name} is left out: {why}",
    "no time": "data.time: no column looks like a time, so lines count as a second apart{like}",
    "one label": "data.label: always {value} in the sample: nothing can be told apart",
    "decimal": "data.decimal: a guess; {why}",
    "skip bad": "data.skip_bad: {bad:,} of {lines:,} lines cannot be used and are left out; the "
    "first: {first}",
    "unlabelled": "data.unlabelled: {share:.0%} of the lines have no label ({what}) and are left out",
    "words": "data.positive: {words} counts as 0: nobody here knows the word; if it is what you want "
    "more of, put it into positive",
    "outcomes": "data.label: {others} look like outcomes too; the label is {name}, because {why}",
}


def error(message: str, /, **values: object) -> InitError:
    """The error with this key."""
    return InitError(ERRORS[message].format(**values))


def look_at(message: str, /, **values: object) -> str:
    """What people are asked to look at."""
    return LOOK_AT[message].format(**values)
