"""The one rule for the features of a request, at every input: files, producers, HTTP and topics.

A feature that the config does not declare is ignored. A declared one may be absent or null, which
is the same, or a boolean, which is the id 0 or 1; else it is an id, a number or a list of ids, within the
limits of a record. Only a feature that is known to be a vector takes a list of numbers, and only one that is
known to be a text takes a long one.
"""

import math
from collections.abc import Collection, Iterator, Mapping

from stream.errors import RecordError
from stream.limits import FEATURES_MAX, LONG_TEXT_MAX, TEXT_MAX, VALUES_MAX, VECTOR_MAX
from stream.records.types import Features, Value

ID_MIN, ID_END = -(1 << 63), 1 << 63
HALF_CHARACTERS = "holds half of a character (a lone surrogate), which is no text; decode it as UTF-8 first"
TOO_LARGE = "an integer id is a signed one of 64 bits, up to 2^63 - 1; send larger ones as text"

KEYS, AT, MEAN = ".keys", ".at", ".mean"
"""Behind the name of a history: its ids as 64-bit keys, and the times of its ids in whole seconds. Behind
that of a rate: the mean of all."""

_SCALARS = frozenset((bool, int, float, str))


class Declared(Collection[str]):
    """The names of the declared features, and which of them take lists of numbers or long texts.

    Attributes:
        owners: by feature, the names of its entities' attributes; None: not known, all may be.

    >>> declared = Declared(["user", "title"], texts=["title"])
    >>> "user" in declared, declared.takes("title")
    (True, (False, True))
    """

    def __init__(
        self,
        names: Collection[str],
        vectors: Collection[str] = (),
        texts: Collection[str] = (),
        owners: Mapping[str, Collection[str]] | None = None,
    ) -> None:
        self._names = frozenset(names)
        self._vectors = frozenset(vectors)
        self._texts = frozenset(texts)
        self.owners = owners

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def naming(self, names: Collection[str]) -> "Declared":
        """The same with other names declared."""
        return Declared(names, self._vectors, self._texts, self.owners)

    @property
    def any_content(self) -> bool:
        """Whether some feature takes a list of numbers or a long text."""
        return bool(self._vectors or self._texts)

    def takes(self, name: str) -> tuple[bool, bool]:
        """Whether a feature takes (lists of numbers, long texts)."""
        return name in self._vectors, name in self._texts


class AnyContent(Declared):
    """What is declared where no config says it: no names, and any list of numbers and long text is one."""

    def takes(self, name: str) -> tuple[bool, bool]:
        return True, True

    def naming(self, names: Collection[str]) -> Declared:
        return self


ANY_CONTENT = AnyContent(())


def takes(declared: Collection[str] | None, name: str) -> tuple[bool, bool]:
    """Whether a feature takes (lists of numbers, long texts); of names alone, none does."""
    return declared.takes(name) if isinstance(declared, Declared) else (False, False)


def tidy_features(
    where: str, said: Mapping[str, object], declared: Collection[str] | None = None
) -> Features:
    """What is said of features, without what is null and what no feature takes.

    >>> tidy_features("context", {"user": "ann", "beta": True, "trace": {"span": 1}, "age": None})
    {'user': 'ann', 'beta': 1}

    Args:
        where: the field, for errors.
        said: as decoded, of any types.
        declared: the features' names; what is not among them is left out where it fits no feature. None:
            they are not known here, so only what fits no feature of any kind is left out unseen.

    Raises:
        RecordError: naming the feature and what was expected.
    """
    found: Features = {}
    for name, value in said.items():
        if value is None:
            continue
        if declared is None and not _may_be_declared(value):
            continue
        try:
            found[name] = tidy_value(value, *takes(declared, name))
        except ValueError as error:
            if declared is None or name in declared:
                raise RecordError(f"{where}.{name} {error}") from None
    if len(found) > FEATURES_MAX and declared is not None:
        found = {name: value for name, value in found.items() if name in declared}
    if len(found) > FEATURES_MAX:
        raise RecordError(f"{where} has {len(found)} features, more than {FEATURES_MAX}")
    return found


def tidy_value(value: object, vector: bool = False, text: bool = False) -> Value:
    """One value that is not null.

    Args:
        vector: a list of numbers fits too.
        text: a long text fits too.

    Raises:
        ValueError: it is no value of a feature; the message goes on behind the feature's name.
    """
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, int):
        if not ID_MIN <= value < ID_END:
            raise ValueError(f"is {value}; {TOO_LARGE}")
        return value
    if isinstance(value, str):
        most = LONG_TEXT_MAX if text else TEXT_MAX
        if len(value) > most:
            raise ValueError(f"has {len(value)} characters, more than {most}")
        if not is_whole(value):
            raise ValueError(HALF_CHARACTERS)
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"is {value}; expected a finite number, or null where it is not known")
        return value
    if isinstance(value, list | tuple):
        numbers = vector and all(type(item) in (int, float) for item in value)
        return _tidy_vector(value) if numbers else _tidy_list(value)
    raise ValueError(f"is {_kind_of(value)}; expected an id, a number, a list of ids, or null")


def check_value(value: object, vector: bool, text: bool) -> bool:
    """Whether a value that is not null is one as it is, without any change; arguments as of `tidy_value`."""
    try:
        return tidy_value(value, vector, text) == value and not isinstance(value, bool)
    except ValueError:
        return False


def is_whole(text: str) -> bool:
    """Whether a text is of whole characters, as all that comes from a decoder is; no other can be hashed.

    >>> is_whole("naïve 👍"), is_whole(chr(0xD83D))
    (True, False)
    """
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _tidy_vector(values: Collection[object]) -> list[int | float | str]:
    if len(values) > VECTOR_MAX:
        raise ValueError(f"has {len(values)} numbers, more than {VECTOR_MAX}")
    found: list[int | float | str] = []
    for item in values:
        if isinstance(item, int) and not ID_MIN <= item < ID_END:
            raise ValueError("is a list that holds an integer beyond 64 bits; write such numbers as 1e20")
        if not isinstance(item, int | float) or not math.isfinite(item):
            raise ValueError(f"is a list that holds {item}; expected finite numbers")
        found.append(item)
    return found


def _tidy_list(values: Collection[object]) -> list[int | float | str]:
    if len(values) > VALUES_MAX:
        raise ValueError(f"has {len(values)} values, more than {VALUES_MAX}")
    found: list[int | float | str] = []
    for item in values:
        if isinstance(item, int):
            if not ID_MIN <= item < ID_END:
                raise ValueError(f"is {item}; {TOO_LARGE}")
            found.append(int(item))
        elif isinstance(item, str):
            if len(item) > TEXT_MAX:
                raise ValueError(f"holds an id of more than {TEXT_MAX} characters")
            if not is_whole(item):
                raise ValueError(HALF_CHARACTERS)
            found.append(item)
        elif item is not None:
            raise ValueError(f"is a list that holds {_kind_of(item)}; expected ids, integers or text")
    return found


def _may_be_declared(value: object) -> bool:
    """Whether a value is of a type that some feature takes."""
    if isinstance(value, list):
        return all(item is None or isinstance(item, bool | int | str) for item in value)
    return type(value) in _SCALARS


def _kind_of(value: object) -> str:
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list | tuple):
        return "a list"
    return f"{str(value)[:40]} of type {type(value).__name__}"
