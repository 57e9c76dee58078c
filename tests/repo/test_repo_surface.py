"""What each package exports: small, complete, documented, and on the page of the Python interface."""

import ast
import inspect
from importlib import import_module

import pytest
from paths import ROOT
from test_repo_layout import FLOOR_OF

from freshet.show.api_page import PACKAGES

NAMES_MAX = 30
"""Of one package, beside errors. A user should be able to read them all."""


@pytest.mark.parametrize(
    "package",  # importing PyTorch takes seconds
    [pytest.param(name, marks=pytest.mark.slow) if "torch" in name else name for name in PACKAGES],
)
def test_every_exported_name_is_there_documented_and_on_the_page(package: str) -> None:
    module = import_module(package)
    names = [name for name in module.__all__ if not name.startswith("_")]
    assert len(set(names)) == len(names)
    assert len([name for name in names if not name.endswith("Error")]) <= NAMES_MAX
    assert list(module.__all__) == sorted(module.__all__)
    page = (ROOT / "docs" / "api.md").read_text()
    for name in names:
        thing = getattr(module, name)
        if inspect.isclass(thing) or inspect.isfunction(thing):
            assert inspect.getdoc(thing), f"{package}.{name} has no docstring"
        assert f"### `{package}.{name}`" in page
    with pytest.raises(AttributeError):
        getattr(module, "no_such_name")  # noqa: B009


@pytest.mark.parametrize("package", [name for name in PACKAGES if "." not in name])
def test_every_error_of_a_package_can_be_caught_by_an_exported_name(package: str) -> None:
    module, errors = import_module(package), import_module(f"{package}.errors")
    own = {
        thing.__name__: {kind.__name__ for kind in thing.__mro__ if kind.__module__ == errors.__name__}
        for thing in vars(errors).values()
        if inspect.isclass(thing) and thing.__module__ == errors.__name__
    }
    missing = [name for name, kinds in own.items() if not kinds & set(module.__all__)]
    assert own and not missing


@pytest.mark.parametrize("package", [name for name in PACKAGES if "." not in name])
def test_type_checkers_see_what_is_exported(package: str) -> None:
    """Names that are imported on first use stand under TYPE_CHECKING too."""
    tree = ast.parse((ROOT / package / "__init__.py").read_text())
    bound = {a.asname or a.name for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) for a in n.names}
    bound |= {
        t.id for n in tree.body if isinstance(n, ast.Assign) for t in n.targets if isinstance(t, ast.Name)
    }
    assert set(import_module(package).__all__) <= bound


def test_all_packages_that_users_import_are_on_the_page() -> None:
    packages = {name for name in FLOOR_OF if name != "ground"}
    assert set(PACKAGES) == {*packages, "embeddings.torch", "freshet.client"}
