"""A short repr for settings: only what differs from the defaults."""

from collections.abc import Iterator

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

    def __rich_repr__(self) -> Iterator[tuple[str, object]]:
        """The fields that differ from their defaults, in their order."""
        for field in msgspec.structs.fields(type(self)):  # type: ignore[type-var]
            value = getattr(self, field.name)
            made = field.default_factory
            default = field.default if made is msgspec.NODEFAULT else made()
            if default is msgspec.NODEFAULT or value != default:
                yield field.name, value

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in self.__rich_repr__())})"
