"""Finding the class of `learner.deep = "MODULE:CLASS"`, and a version of its code.

The version is a hash of the module's file and of the files that it imports, directly or through others, from
the same package or from the folder `learner.deep_path`. It is computed from the sources alone, without
running them.
"""

import ast
import importlib
import sys
import threading
from collections.abc import Iterator
from difflib import get_close_matches
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import xxhash

from learner.errors import NetworkError
from learner.settings import LearnerSettings

VERSION_DIGITS = 12
OURS = frozenset({"freshet", "serving", "learner", "stream", "embeddings", "error_memory", "ground"})
"""Packages that are no part of a network's code."""

_imported: dict[str, str] = {}  # module -> the version of its code when it was imported here
_importing = threading.Lock()  # an import changes sys.path for a moment


class OwnSource(NamedTuple):
    """Where a network's class is, and which code it is."""

    module: str
    name: str  # of the class
    file: Path
    version: str  # a hash of the code, or what `learner.deep_version` says

    def __str__(self) -> str:
        return f"{self.module}:{self.name}"


def is_own(deep: str) -> bool:
    """Whether a value of `learner.deep` names a class."""
    return ":" in deep


def own_source(settings: LearnerSettings) -> OwnSource:
    """Find the class that `learner.deep` names, without importing it.

    Raises:
        NetworkError: there is no such module, or its file cannot be read.
    """
    module, _, name = settings.deep.partition(":")
    file, home = _locate(module, settings)
    version = settings.deep_version or _hash(module, file, home, settings.deep_path)
    return OwnSource(module, name, file, version)


def own_class(settings: LearnerSettings) -> type:
    """Import the class that `learner.deep` names.

    While it is imported `learner.deep_path` is first in `sys.path`; afterwards it is last there, for imports
    that its functions do later.

    Raises:
        NetworkError: it cannot be imported, or is no class.
    """
    source = own_source(settings)
    code = _hash(source.module, source.file, _locate(source.module, settings)[1], settings.deep_path)
    folder = str(Path(settings.deep_path).resolve()) if settings.deep_path else ""
    with _importing:
        before = _imported.setdefault(source.module, code)
        if before != code:
            raise _wrong(
                settings, f"{source.file} has changed since this process imported it: start the process anew"
            )
        if folder:
            sys.path.insert(0, folder)
        try:
            module = importlib.import_module(source.module)
        except Exception as error:  # whatever the module's own code raises
            del _imported[source.module]
            raise _wrong(
                settings, f"{source.file} cannot be imported: {type(error).__name__}: {error}"
            ) from error
        finally:
            if folder:
                sys.path.remove(folder)
                if folder not in sys.path:
                    sys.path.append(folder)
    actual = getattr(module, "__file__", None)
    if actual is None or Path(actual).resolve() != source.file.resolve():
        raise _wrong(
            settings,
            f"this process has already imported another module of that name, {actual}: rename yours",
        )
    found = getattr(module, source.name, None)
    if not isinstance(found, type):
        classes = [name for name, value in vars(module).items() if isinstance(value, type)]
        near = get_close_matches(source.name, classes, 1)
        what = "has no class" if found is None else f"has a {type(found).__name__}, not a class,"
        raise _wrong(
            settings,
            f"{source.file} {what} {source.name}" + (f"; did you mean {near[0]}?" if near else ""),
        )
    return found


def _wrong(settings: LearnerSettings, why: str) -> NetworkError:
    return NetworkError(f"learner.deep = {settings.deep!r}: {why}")


def _locate(module: str, settings: LearnerSettings) -> tuple[Path, Path]:
    """The module's file, and the folder in which its top package or module lies."""
    folders = [settings.deep_path] if settings.deep_path else []
    if module == "__main__":
        raise _wrong(settings, "__main__ is another module in each process: put the class into a module file")
    spec = _search(module, [*folders, *sys.path])
    if spec is None:
        try:
            spec = find_spec(module)  # finders of editable installs
        except (ImportError, ValueError, AttributeError):
            spec = None
    if spec is None or not spec.has_location or spec.origin is None:
        searched = f"neither in {settings.deep_path} nor" if settings.deep_path else "not"
        raise _wrong(
            settings,
            f"module {module} was found {searched} on Python's path (sys.path): name its folder in "
            "learner.deep_path, or install it",
        )
    file = Path(spec.origin)
    up = module.count(".") + (file.name == "__init__.py")
    return file, file.parents[up]


def _search(module: str, path: list[str]) -> ModuleSpec | None:
    """The spec of a module, by its parents' folders; nothing is imported."""
    spec: ModuleSpec | None = None
    where: list[str] | None = path
    for at, _ in enumerate(parts := module.split(".")):
        if where is None:
            return None
        spec = PathFinder.find_spec(".".join(parts[: at + 1]), where)
        if spec is None:
            return None
        found = spec.submodule_search_locations
        where = None if found is None else list(found)
    return spec


def _hash(module: str, file: Path, home: Path, deep_path: str) -> str:
    """A hash of the module's code and of what it imports from its own package, or its own `deep_path`."""
    whole_folder = bool(deep_path) and Path(deep_path).resolve() == home.resolve()
    top = module.partition(".")[0]
    hasher = xxhash.xxh3_128()
    waiting = [module]
    seen: set[Path] = set()
    contents: dict[str, bytes] = {}
    while waiting:
        name = waiting.pop()
        first = name.partition(".")[0]
        if first in OURS or not (whole_folder or first == top):
            continue
        for part in _files(name, home) if name != module else [*_files(name, home), file]:
            if part in seen:
                continue
            seen.add(part)
            data = _read(part, module)
            contents[part.relative_to(home).as_posix()] = data
            waiting += _imports(data, part, home)
    for path, data in sorted(contents.items()):
        hasher.update(f"{path}\0{len(data)}\0".encode())
        hasher.update(data)
    return hasher.hexdigest()[:VERSION_DIGITS]


def _files(module: str, home: Path) -> Iterator[Path]:
    """The files that an import of a module runs: those of its parents and its own."""
    parts = module.split(".")
    for end in range(1, len(parts) + 1):
        base = home.joinpath(*parts[:end])
        for file in (base / "__init__.py", base.with_name(f"{base.name}.py")):
            if file.is_file():
                yield file
                break


def _imports(source: bytes, file: Path, home: Path) -> list[str]:
    """The modules that a source imports, absolute; a name that is no module is sorted out by its reader."""
    if file.suffix != ".py":
        return []
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return []  # the import says so
    package = file.parent.relative_to(home).parts
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join([*above, *([node.module] if node.module else [])])
            found += [f"{base}.{alias.name}".strip(".") for alias in node.names]
    return found


def _read(file: Path, module: str) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise NetworkError(f"learner.deep: {module}: {file} cannot be read: {error.strerror}") from None
