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
    "counts as 1, or the column alone to predict its numbers:\n{offers}",
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
    "label or nothing": "{path}: {name} is {value} or nothing, so there is nothing to learn: if nothing "
    "means 0, write 0 there; else name another label with --label NAME",
    "label of nothing": "{path}: {name} has {distinct:,} different values, such as {example}, so it "
    "is not a label; name another with --label NAME",
    "no feature": "{path}: no column is left as a feature{reasons}. Try more lines, or write the "
    "config by hand",
    "does not fit": "{path}: the first lines do not match {source}: {why}",
    "no example": "{path}: no line can be used with {source}",
    "no entities": "{path}: no column has the ids of {names}: expected one with another value on each line, "
    "which are those of {data}",
    "entities as they are": "{path}: {what}, which [entities] cannot say; write it as a plain CSV, JSON "
    "Lines or Parquet file",
    "data or topic": "init looks at files (--data FILE) or at topics (--topic URL/NAME), not at both",
    "no topic": "--topic {text}: expected the URL of a log, a slash and the topic's name, for example "
    "kafka://HOST:PORT/shop.clicks; with --with-config FILE the name alone",
    "no such topic": "{name}: {why}; name a topic that is there, by its full name",
    "empty topic": "{name}: has no records to look at",
    "only deletions": "{name}: its newest {count:,} records are all deletions, without a value, so nothing "
    "says what it holds",
    "no objects": "{name}: its records are no objects with fields",
    "registry needed": "{name}: its records begin with the id of a schema ({number}); name the registry "
    "that has it with --registry URL",
    "avro file needed": "{name}: its records are in Avro's single-object encoding, whose schema only its "
    "owner has; write the section by hand, with format and schema (docs/sources.md)",
    "no format": "{name}: its records, as {begin}, fit no format ({tried}); if they are Avro or Protobuf "
    "without a registry, write the section by hand, with format and schema (docs/sources.md)",
    "no event time": "{name}: no field is a time of each record; its fields are {names}",
    "no impressions": "{names}: only actions, as it seems; name the topic that says what was shown too, "
    "with a second --topic",
    "no request id": "{name}: no field has another value in each record, so none names the request; its "
    "fields are {names}",
    "never meet": "{name}: its records share no values with those of the impressions that were read, so "
    "nothing says which candidate they are of; its fields are {names}",
}

LOOK_AT = {
    "guess": "data.{key}: a guess{also}",
    "feature": "features.{name}: a guess, {kind}",
    "over": "data.features: {count} columns are left out, from {first} on: {why}",
    "leak": "data.features: {name} is left out: {why}",
    "no time": "data.time: no column looks like a time, so lines count as one second apart{like}",
    "one label": "data.label: always {value} in the sample, so there is nothing to learn",
    "lines of events": "data.label: {share:.0%} of the lines that count as 1 repeat an earlier one that "
    "counts as 0: each line seems to be an event, and a replay of this config would learn what was clicked "
    "twice, first as not clicked. Declare sources, and send the file with freshet produce --source",
    "lines as sources": "each line is an event: {column} says which; what was shown waits for what became "
    "of it",
    "decimal": "data.decimal: a guess; {why}",
    "skip bad": "data.skip_bad: {bad:,} of {lines:,} lines cannot be used and are left out; the "
    "first: {first}",
    "unlabelled": "data.unlabelled: {share:.0%} of the lines have no label ({what}) and are left out",
    "words": "data.positive: {words} counts as 0: the word is unknown; if you want more of it, add "
    "it to positive",
    "outcomes": "data.label: {others} look like outcomes too; the label is {name}, because {why}",
    "topic kind": "sources, topic {name}: taken as {kind}: {why}",
    "many fields": "topic {name}: only the first {most} fields were looked at, and objects within {depth} "
    "others at most",
    "no attributes": "topic {name}: its records seem to say what is true of {of}, and have nothing that is a "
    "feature; it is left out",
    "few meet": "sources.{name}: only {share:.0%} of {count:,} actions find their candidate among the "
    "records read; if the topics do not cover the same hours, that is why",
    "target": "targets.{name}: a further target{of}; {why}",
    "no attribute": "{path}: no column is an attribute of {of}; the reasons are in the config",
    "no target": "data.labels: {name} looks like an outcome and is no further target: {why}",
}


def error(message: str, /, **values: object) -> InitError:
    """The error with this key."""
    return InitError(ERRORS[message].format(**values))


def look_at(message: str, /, **values: object) -> str:
    """What people are asked to look at."""
    return LOOK_AT[message].format(**values)
