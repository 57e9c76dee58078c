"""One class name stands for one thing in all packages."""

import ast
from pathlib import Path

from test_repo_rooms import MODULES, ROOT

ALLOWED = {
    "Batch": "rows of encoded examples; RocksDB's word for writes that are applied together",
    "Block": "rows of a table for one batch; records in the outbox for one topic",
    "Column": "a column of a CSV file that `init` reads; a column of an exported file",
    "Filter": "the admission filter of a table; the options of `dead-letters`",
    "ForbiddenError": "HTTP status 403; Kafka's refusal of rights: each protocol's own word",
    "Layout": "the inputs of a network; the columns of an exported file",
    "Live": "the replica behind a server; the contents of its page",
    "Meta": "what is saved beside a table; what is saved beside a learner",
    "Observed": "a group member with its last status; the arguments of `observe` of an error memory",
    "Pending": "requests that wait to be trained on; requests that wait for their window",
    "Progress": "one partition's event times; the counts of a role's loop",
    "Rows": "rows of keys for the kernels; records gathered as columns",
    "Taken": "a score with its parts; a stretch of the journal",
    "Writer": "events that the server appends; records that Kafka takes",
}
"""Names that two rooms still share, and what each means there. Add none: rename the younger class."""


def defined_classes(source: str) -> list[str]:
    """Classes at the top of a file that other files may import."""
    return [
        node.name
        for node in ast.parse(source).body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    ]


def test_a_class_name_is_defined_once() -> None:
    homes: dict[str, list[Path]] = {}
    for path in MODULES.values():
        for name in defined_classes(path.read_text()):
            homes.setdefault(name, []).append(path.relative_to(ROOT))
    twice = {
        name: [str(path) for path in paths]
        for name, paths in homes.items()
        if len(paths) > 1 and name not in ALLOWED
    }
    assert not twice, "one name stands for two things: rename one of them"


def test_the_reader_of_classes_finds_public_ones_only() -> None:
    assert defined_classes("class A: ...\nclass _B: ...\ndef f():\n    class C: ...\n") == ["A"]
