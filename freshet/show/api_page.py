"""docs/api.md, made from the docstrings of what each package shows:

python -m freshet.show.api_page > docs/api.md
"""

import inspect
import re
import sys
import textwrap
from importlib import import_module
from types import ModuleType

PACKAGES = (
    "error_memory",
    "embeddings",
    "embeddings.torch",
    "stream",
    "learner",
    "serving",
    "freshet",
    "freshet.client",
)

_HEAD = (
    "# The Python interface\n\n"
    "What each package exports. Everything else is internal and may change in any release.\n\n"
    "This page is made from the docstrings: `python -m freshet.show.api_page > docs/api.md`.\n"
)


def page() -> str:
    """The page."""
    return _HEAD + "".join(_package(import_module(name)) for name in PACKAGES)


def _package(module: ModuleType) -> str:
    about = inspect.cleandoc(module.__doc__ or "").partition("\n")[0]
    text = f"\n## `{module.__name__}`\n\n{about}\n"
    for name in sorted(name for name in module.__all__ if not name.startswith("_")):
        text += _entry(module.__name__, name, getattr(module, name))
    return text


def _entry(package: str, name: str, thing: object) -> str:
    """A class with its public methods, a function, or a type."""
    text = f"\n### `{package}.{name}`\n\n"
    if inspect.isclass(thing):
        if not issubclass(thing, Exception):
            text += _code(f"{name}{_signature(thing)}")
        text += _doc(thing.__doc__ if "__doc__" in vars(thing) else None)
        for method_name, method in vars(thing).items():
            if method_name.startswith("_") or not _is_own(method):
                continue
            if isinstance(method, property):
                text += f"\n**`.{method_name}`** {_first(method.__doc__)}\n"
            else:
                function = method.__func__ if isinstance(method, staticmethod | classmethod) else method
                text += f"\n**`.{method_name}{_signature(function, method)}`** {_first(function.__doc__)}\n"
    elif callable(thing) and inspect.isfunction(thing):
        text += _code(f"{name}{_signature(thing)}") + _doc(thing.__doc__)
    else:
        text += _code(str(thing))
    return text


def _is_own(member: object) -> bool:
    return isinstance(member, property | staticmethod | classmethod) or inspect.isfunction(member)


def _signature(thing: object, bound: object = None) -> str:
    """As it is written in the source, without `self`."""
    try:
        signature = inspect.signature(thing)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return "(...)"
    parameters = list(signature.parameters.values())
    if parameters and parameters[0].name in ("self", "cls") and not isinstance(bound, staticmethod):
        parameters = parameters[1:]
    shown = []
    for parameter in parameters:
        given = parameter.default is not inspect.Parameter.empty
        if parameter.kind is parameter.VAR_POSITIONAL:
            shown.append(f"*{parameter.name}")
        elif parameter.kind is parameter.VAR_KEYWORD:
            shown.append(f"**{parameter.name}")
        else:
            shown.append(f"{parameter.name}{'=…' if given else ''}")
    return f"({', '.join(shown)})"


def _code(text: str) -> str:
    return f"```text\n{textwrap.fill(text, 100, subsequent_indent='    ', break_long_words=False)}\n```\n"


def _first(doc: str | None) -> str:
    """The first paragraph of a docstring, on one line."""
    return re.sub(r"\s+", " ", inspect.cleandoc(doc or "").partition("\n\n")[0])


def _doc(doc: str | None) -> str:
    """A docstring: its paragraphs as they are, its examples as code, its sections in bold."""
    text = "\n"
    for paragraph in re.split(r"\n\s*\n", inspect.cleandoc(doc or "")):
        head, _, body = paragraph.partition("\n")
        if paragraph.lstrip().startswith(">>>"):
            text += f"```text\n{textwrap.dedent(paragraph)}\n```\n\n"
        elif head in ("Args:", "Returns:", "Raises:", "Attributes:"):
            items = re.split(r"\n(?=    \S)", f"\n{body}")
            lines = [re.sub(r"\s+", " ", item).strip() for item in items if item.strip()]
            text += f"*{head}*\n\n" + "".join(f"- {line}\n" for line in lines) + "\n"
        elif paragraph.startswith("    "):
            text += f"```text\n{textwrap.dedent(paragraph)}\n```\n\n"
        else:
            text += re.sub(r"\s*\n\s*", " ", paragraph) + "\n\n"
    return text.rstrip() + "\n"


if __name__ == "__main__":
    sys.stdout.write(page())
