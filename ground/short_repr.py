"""A short repr for settings: only what differs from the defaults."""

from typing import cast

import msgspec


class ShortRepr:
    """Before `msgspec.Struct` among the bases of a class of settings.

    >>> class Soup(ShortRepr, msgspec.Struct, frozen=True, kw_only=True):
    ...     salt_g: float = 2.0
    ...     herbs: list[str] = []
    >>> Soup(), Soup(salt_g=3.0)
    (Soup(), Soup(salt_g=3.0))
    """

    __slots__ = ()

    def __repr__(self) -> str:
        shown = []
        for field in msgspec.structs.fields(cast(msgspec.Struct, self)):
            value = getattr(self, field.name)
            made = field.default_factory
            default = made() if callable(made) else field.default
            if value != default:
                shown.append(f"{field.name}={value!r}")
        return f"{type(self).__name__}({', '.join(shown)})"
