"""Formats of other learners, recognised by their first lines; each with the command that converts it."""

import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

_LOOKED_AT = 50
_PAIRS = re.compile(r"\d+:-?[\d.]+(e-?\d+)?$", re.IGNORECASE).match
_TRIPLES = re.compile(r"\w+:\w+:-?[\d.]+(e-?\d+)?$", re.IGNORECASE).match
_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?$").match
_BETWEEN_COLONS = re.compile(r"[^,;|\t:]+(::.+){2}$").match
_SLATE = re.compile(r"\w+-[01]( \w+-[01])*$").match


class Foreign(NamedTuple):
    """A format, and the command that makes a table of a file in it."""

    name: str
    command: str


def foreign_format(lines: Sequence[str], path: Path) -> Foreign | None:
    """Which learner's format these lines are in, if any."""
    rows = [line.rstrip("\r\n") for line in lines[:_LOOKED_AT] if line.strip()]
    cells = [row.split() for row in rows]
    file = shlex.quote(str(path))
    to = shlex.quote(f"{path.name.removesuffix('.gz')}.jsonl")
    read = "zcat" if path.suffix == ".gz" else "cat"
    if all(" |" in row or row.startswith("|") for row in rows) and not any("\t" in row for row in rows):
        return Foreign("Vowpal Wabbit", f"{read} {file} | awk {shlex.quote(_VW)} > {to}")
    if any(len(row) > 1 for row in cells) and all(_NUMBER(row[0]) for row in cells):
        if all(_TRIPLES(cell) for row in cells for cell in row[1:]):
            return Foreign("libffm", f"{read} {file} | awk {shlex.quote(_FFM)} > {to}")
        if all(_PAIRS(cell) or cell.startswith(("qid:", "#")) for row in cells for cell in row[1:]):
            return Foreign("libsvm", f"{read} {file} | awk {shlex.quote(_SVM)} > {to}")
    if all(map(_BETWEEN_COLONS, rows)) and len({row.count("::") for row in rows}) == 1:
        to = shlex.quote(f"{path.stem}.tsv")
        command = f"{read} {file} | sed 's/::/\\t/g' > {to}"
        return Foreign("cells between two colons, as MovieLens has them (1::2::5)", command)
    tabs = [row.split("\t") for row in rows]
    if len(tabs[0]) > 2 and all(len(row) == len(tabs[0]) for row in tabs):
        slate = next((i for i in range(len(tabs[0])) if all(_SLATE(row[i]) for row in tabs)), None)
        if slate is not None and any(" " in row[slate] for row in tabs):
            to = shlex.quote(f"{path.stem}.lines.tsv")
            program = shlex.quote(_SLATES % (slate + 1, slate + 1))
            command = f"{read} {file} | awk -F'\\t' -v OFS='\\t' {program} > {to}"
            return Foreign("slates in one cell, as MIND has them (N1-0 N2-1)", command)
    return None


# A value of 1 says that the feature is there: it becomes an id of a list. Others become numbers of their own.
_SVM = (
    '{ printf "{\\"label\\": %s", $1 + 0; ids = ""; for (i = 2; i <= NF; i++) { n = split($i, p, ":");'
    ' if (p[1] == "qid") printf ", \\"request_id\\": \\"%s\\"", p[2];'
    ' else if (n == 2 && p[2] == 1) ids = ids (ids == "" ? "" : ", ") p[1];'
    ' else if (n == 2) printf ", \\"f%s\\": %s", p[1], p[2] }'
    ' printf ", \\"ids\\": [%s]}\\n", ids }'
)
_FFM = (
    '{ printf "{\\"label\\": %s", $1 + 0; for (i = 2; i <= NF; i++) { split($i, p, ":");'
    ' if (!(p[1] in f)) { f[p[1]] = ""; o[++k] = p[1] }'
    ' f[p[1]] = f[p[1]] (f[p[1]] == "" ? "" : ", ") "\\"" p[2] "\\"" }'
    ' for (i = 1; i <= k; i++) printf ", \\"f%s\\": [%s]", o[i], f[o[i]];'
    ' print "}"; delete f; delete o; k = 0 }'
)
_VW = (
    '{ n = split($0, s, "|"); split(s[1], l, " "); printf "{\\"label\\": %s", l[1] + 0;'
    ' for (i = 2; i <= n; i++) { m = split(s[i], w, " "); name = "f"; b = 1;'
    ' if (substr(s[i], 1, 1) != " ") { name = w[1]; sub(/:.*/, "", name); b = 2 }'
    ' printf ", \\"%s\\": [", name; for (j = b; j <= m; j++) { gsub(/["\\\\]/, "", w[j]);'
    ' printf "%s\\"%s\\"", (j > b ? ", " : ""), w[j] } printf "]" } print "}" }'
)
_SLATES = (
    '{ n = split($%d, s, " "); $%d = "r" NR; for (i = 1; i <= n; i++) { split(s[i], c, "-");'
    " print $0, c[1], c[2] } }"
)
