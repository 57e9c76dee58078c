"""Positions in the arrays that kernels share: one name each, and no bare numbers."""

import ast
from pathlib import Path

import pytest

import embeddings
from embeddings.core import positions

ENUMS = {
    "state": positions.State,
    "ages": positions.Ages,
    "path": positions.Path,
}
ROOT = Path(embeddings.__file__).parent


@pytest.mark.parametrize("enum", [*ENUMS.values(), positions.Reader], ids=lambda enum: enum.__name__)
def test_position_has_one_name(enum):
    assert len(enum.__members__) == len(enum), "two names for one position"


def test_positions_fit_their_arrays():
    assert max(positions.State) < positions.STATE_SIZE
    assert max(positions.Ages) < positions.AGES_SIZE


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_shared_array_is_indexed_by_name(path):
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Subscript):
            continue
        array = node.value.attr if isinstance(node.value, ast.Attribute) else getattr(node.value, "id", "")
        if array not in ENUMS:
            continue
        parts = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        if array == "path":
            parts = parts[1:]
        for part in parts:
            if not (
                isinstance(part, ast.Attribute)
                and isinstance(part.value, ast.Name)
                and part.value.id == ENUMS[array].__name__
            ):
                found.append(f"{path.name}:{node.lineno}: {ast.unparse(node)}")
    assert not found, f"index these arrays by a member of their enumeration: {found}"
