"""What a vector or a text says, as entries: coordinates, words, and codes that similar contents share.

Nothing here learns or keeps state, so the same value gives the same entries in every process and replay.

A *vector* of unit length is projected onto some random directions of ±1 (Achlioptas 2003, Database-
friendly random projections, section 2): what is near stays near. Each coordinate is an entry whose x is its
value. So the fast part learns a linear function of the content, a pair with the user a linear function of the
user's own, and the deep part pools a learned projection. A vector of no more numbers than directions is
taken as it is.

A *text* is a bag of words, hashed. A word's weight grows with the logarithm of its count; how often words are
used elsewhere is not known here, and the fast part learns what each is worth. Of the scripts that write no
spaces between words, pairs of neighbouring characters count as words.

*Codes* of a vector are prefixes of one number of bits: the sign of each further projection divides the
contents in two (Charikar 2002, simhash; semantic ids, Singh et al. 2023, arXiv 2306.08121). A short code is
shared by many contents, a long one by few that are similar; each length is a column of its own, and its prior
learns how much it says. Short texts share too few words for that: their codes only cost AUC.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from itertools import chain, count
from math import log, sqrt
from typing import cast

import numpy as np
import numpy.typing as npt
from numba import njit

from ground.kernels.mixing import mix
from ground.keys import hash_string
from learner.errors import FeatureError
from learner.features.values import Keys, Values, starts_of
from stream.limits import LONG_TEXT_MAX, VECTOR_MAX

DIRECTIONS = 16
"""How many a vector is projected on, without another setting; 32 gain a little and cost twice as much."""
DIRECTIONS_MAX = 64
CODE_BITS = (4, 8)
"""The lengths of the codes: with 12 bits as a third, AUC in a world of vectors rises by .0004."""
COORDINATES_SIZE = 2.0
"""The length of a vector of coordinates. With 1, the priors of pairs start too narrow for what they mean."""
WORDS_MAX = 64
"""Different words of one text that count. Of more, those with the smallest hashes: similar texts keep similar
ones."""
TEXTS_KEPT = 1 << 14
"""Texts whose words are kept, least recently used first out."""

VECTORS_KEPT = 1 << 12
"""Vectors of one feature whose entries are kept; when there are more, all are dropped."""

_CODES_SALT = np.uint64(0x5BD1E995C0DE5EED)
_COORDINATES_SALT = np.uint64(0x2545F4914F6CDD1D)
# Scripts without spaces: Thai, Lao, Myanmar, Khmer, kana, Han.
_UNSPACED = re.compile(
    "([\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003ffff]+)"
)


@lru_cache(maxsize=1)
def _words() -> re.Pattern[str]:
    """The pattern of a word. Made when a text comes: it takes 12 ms, which a start would wait for.

    `\\w` has none of the vowels and other marks that stand in words, as of Arabic, Hebrew, Hindi and Thai.
    """
    marks = "".join(
        chr(c)
        for c in range(0x0300, 0xFE00)
        if unicodedata.category(chr(c)).startswith("M") and not 0x20D0 <= c < 0x2100  # those are of symbols
    )
    return re.compile(rf"\w[\w{marks}]*")


def words_of(text: str) -> list[str]:
    """The words of a text, in order, without case and typographic variants.

    >>> words_of("Ｔhe Straße, 2 Été"), words_of("東京都 2020")
    (['the', 'strasse', '2', 'été'], ['東京', '京都', '2020'])
    """
    words: list[str] = []
    for word in _words().findall(unicodedata.normalize("NFKC", text).casefold()):
        for i, part in enumerate(_UNSPACED.split(word)):
            if i % 2:
                words += [part[j : j + 2] for j in range(max(len(part) - 1, 1))]
            elif part:
                words.append(part)
    return words


Bag = tuple[Keys, npt.NDArray[np.float32]]
_NO_WORDS: Bag = np.zeros(0, dtype=np.uint64), np.zeros(0, dtype=np.float32)


@lru_cache(maxsize=TEXTS_KEPT)
def _bag(text: str) -> Bag:
    """The hashed words of a text, each once, and their weights: the root of their squares' sum is 1."""
    counts = Counter(words_of(text))
    hashed = [(hash_string(word), 1.0 + log(count)) for word, count in counts.items()]
    if len(hashed) > WORDS_MAX:
        hashed = sorted(hashed)[:WORDS_MAX]
    norm = sqrt(sum(weight * weight for _, weight in hashed))
    weights = [weight / norm for _, weight in hashed]
    return np.array([key for key, _ in hashed], dtype=np.uint64), np.array(weights, dtype=np.float32)


def read_texts(name: str, values: Sequence[object]) -> Values:
    """Texts (n,) or None, as hashed words; a text without words has no entry.

    Raises:
        FeatureError: a value is no text, or too long.
    """
    if not set(map(type, values)) <= {str}:
        bags = [_NO_WORDS if value is None else _bag(_checked(name, value)) for value in values]
    else:
        texts = cast(Sequence[str], values)
        if max(map(len, texts), default=0) > LONG_TEXT_MAX:
            texts = [_checked(name, text) for text in texts]
        bags = list(map(_bag, texts))
    sizes = np.fromiter((len(key) for key, _ in bags), dtype=np.int64, count=len(bags))
    bags = bags or [_NO_WORDS]
    keys, weights = zip(*bags, strict=True)
    return Values(starts_of(sizes), np.concatenate(keys), np.concatenate(weights))


def _checked(name: str, value: object) -> str:
    """A text that is one.

    Raises:
        FeatureError: it is none, or too long.
    """
    if not isinstance(value, str):
        raise FeatureError(
            f"feature {name} (kind text) has the value {str(value)[:80]!r} of type "
            f"{type(value).__name__}; expected text"
        )
    if len(value) > LONG_TEXT_MAX:
        raise FeatureError(
            f"feature {name} (kind text) has a value of {len(value):,} characters, more than "
            f"{LONG_TEXT_MAX:,}; send its beginning"
        )
    return value


def read_vectors(name: str, length: int, values: Sequence[object]) -> Values:
    """Vectors (n,), lists of `length` numbers or None, scaled to unit length; one entry a number that is not
    zero. A vector of zeros has none, as if it were absent.

    Raises:
        FeatureError: a value is no such list.
    """
    matrix = _numbers(name, length, values)
    size = np.abs(matrix).max(axis=1, initial=0.0)
    matrix /= np.where(size > 0.0, size, 1.0)[:, None]  # first to 1 at most, so that no square overflows
    norm = np.sqrt(sums_of_squares(matrix))
    matrix /= np.where(norm > 0.0, norm, 1.0)[:, None]
    row, column = np.nonzero(matrix)
    sizes = np.bincount(row, minlength=len(values))
    return Values(starts_of(sizes), column.astype(np.uint64), matrix[row, column].astype(np.float32))


def coordinates(vectors: Values, length: int, directions: int) -> Values:
    """n vectors of unit length and `length` numbers, projected, and scaled to `COORDINATES_SIZE`."""
    if length <= directions:
        return vectors._replace(x=vectors.x * np.float32(COORDINATES_SIZE))
    y = project(vectors.start, vectors.key, vectors.x, _COORDINATES_SALT, directions)  # (n, directions)
    norm = np.sqrt(sums_of_squares(y))
    there = norm > 0.0
    y = y[there] * (COORDINATES_SIZE / norm[there, None])
    key = np.tile(np.arange(directions, dtype=np.uint64), len(y))
    return Values(starts_of(np.where(there, directions, 0)), key, y.ravel().astype(np.float32))


def codes(contents: Values, bits: int) -> Values:
    """The codes of n contents, entries of unit length: one entry each, with the code as key."""
    y = project(contents.start, contents.key, contents.x, _CODES_SALT, bits)  # (n, bits)
    there = np.diff(contents.start) > 0
    key = (y[there] > 0.0) @ (np.uint64(1) << np.arange(bits, dtype=np.uint64))
    return Values(starts_of(there.astype(np.int64)), key.astype(np.uint64), np.ones(len(key), np.float32))


class VectorCache:
    """Coordinates and codes of vectors that come again: those that are known of entities.

    Such a value is the same list each time, so it is found by its identity, and compared with what it was. A
    vector's entries do not depend on those beside it, so kept and computed ones have the same bits.

    Args:
        name: of the feature.
        length: of its vectors; more than `directions`.
        directions: that they are projected on.
    """

    def __init__(self, name: str, length: int, directions: int) -> None:
        self._name, self._length, self._directions = name, length, directions
        self._kept = _KeptVectors(directions)

    def read(self, values: Sequence[object]) -> list[Values]:
        """`coordinates` and `codes` of vectors, as `read_vectors` takes them.

        Raises:
            FeatureError: a value is no such vector.
        """
        kept, n = self._kept, len(values)
        slots = np.fromiter(map(kept.find, values), dtype=np.int64, count=n)
        lacking = np.flatnonzero(slots < 0)
        there, x, code = kept.there[slots], kept.x[slots], kept.code[slots]
        if len(lacking):
            new = [values[r] for r in lacking.tolist()]
            vectors = read_vectors(self._name, self._length, new)
            found = coordinates(vectors, self._length, self._directions)
            with_x, with_code = np.diff(found.start) > 0, np.diff(vectors.start) > 0
            there[lacking] = np.stack([with_x, with_code], axis=1)
            x[lacking[with_x]] = found.x.reshape(-1, self._directions)
            for b, bits in enumerate(CODE_BITS):
                code[lacking[with_code], b] = codes(vectors, bits).key
            if not kept.keep(new, there[lacking], x[lacking], code[lacking]):
                self._kept = _KeptVectors(self._directions)
        with_x, with_code = there.T
        key = np.tile(np.arange(self._directions, dtype=np.uint64), int(with_x.sum()))
        start = starts_of(with_code.astype(np.int64))
        ones = np.ones(int(with_code.sum()), dtype=np.float32)
        return [
            Values(starts_of(np.where(with_x, self._directions, 0)), key, x[with_x].ravel()),
            *(Values(start, code[with_code, b], ones) for b in range(len(CODE_BITS))),
        ]


class _KeptVectors:
    """Up to `VECTORS_KEPT` vectors. Threads may read and keep: a slot is written before it is found."""

    def __init__(self, directions: int) -> None:
        self._slots: dict[int, tuple[int, list[object], list[object]]] = {}  # by identity: slot, list, copy
        self._next = count()
        self.there = np.zeros((VECTORS_KEPT, 2), dtype=np.bool_)  # whether it has coordinates, and codes
        self.x = np.zeros((VECTORS_KEPT, directions), dtype=np.float32)
        self.code = np.zeros((VECTORS_KEPT, len(CODE_BITS)), dtype=np.uint64)

    def find(self, value: object) -> int:
        """The slot of a vector, -1 if it is not kept."""
        found = self._slots.get(id(value))
        return found[0] if found is not None and found[1] is value and found[2] == value else -1

    def keep(
        self,
        values: Sequence[object],
        there: npt.NDArray[np.bool_],
        x: npt.NDArray[np.float32],
        code: npt.NDArray[np.uint64],
    ) -> bool:
        """Keep vectors (n,); returns whether there was room for all."""
        for r, value in enumerate(values):
            if not isinstance(value, list):
                continue
            slot = next(self._next)
            if slot >= VECTORS_KEPT:
                return False
            self.there[slot], self.x[slot], self.code[slot] = there[r], x[r], code[r]
            self._slots[id(value)] = slot, value, value.copy()
        return True


# Sums in one order, so that a row's result does not depend on the rows beside it.
@njit(cache=True, nogil=True)
def project(start, key, x, salt, directions):
    """Sums of ±x over each row's entries, (n, directions) float64; the signs are bits of the hashed key.

    Args:
        start: (n + 1,) int64, entries of row r are start[r]:start[r + 1].
        key, x: (k,) uint64 and (k,) float32.
        salt: another salt gives other directions.
        directions: at most 64.
    """
    y = np.zeros((len(start) - 1, directions))
    for r in range(len(start) - 1):
        for e in range(start[r], start[r + 1]):
            signs = mix(key[e] ^ salt)
            for c in range(directions):
                if (signs >> np.uint64(c)) & np.uint64(1):
                    y[r, c] += x[e]
                else:
                    y[r, c] -= x[e]
    return y


@njit(cache=True, nogil=True)
def sums_of_squares(matrix):
    """Σ of each row's squares, (n,) float64, of a matrix (n, m)."""
    out = np.zeros(len(matrix))
    for r in range(len(matrix)):
        for c in range(matrix.shape[1]):
            out[r] += matrix[r, c] * matrix[r, c]
    return out


def _numbers(name: str, length: int, values: Sequence[object]) -> npt.NDArray[np.float64]:
    """The numbers of vectors, (n, length); zeros for None."""
    if all(isinstance(value, list) and len(value) == length for value in values) and values:
        listed = cast(Sequence[list[float]], values)
        if set(map(type, chain.from_iterable(listed))) <= {int, float}:
            matrix = np.array(listed, dtype=np.float64)
            if np.isfinite(matrix).all():
                return matrix
    matrix = np.zeros((len(values), length))  # some are missing, or to be refused: one by one
    for r, value in enumerate(values):
        if value is not None:
            matrix[r] = _vector(name, length, value)
    return matrix


def _vector(name: str, length: int, value: object) -> npt.NDArray[np.float64]:
    """A value as its numbers, (length,)."""
    if not isinstance(value, list) or not set(map(type, value)) <= {int, float}:
        raise FeatureError(
            f"feature {name} (kind vector) has the value {str(value)[:80]!r}; expected a list of numbers"
        )
    if len(value) != length:
        raise FeatureError(
            f"feature {name} (kind vector) has {len(value)} numbers; expected {length}, its `length` "
            f"(at most {VECTOR_MAX})"
        )
    numbers = np.array(value, dtype=np.float64)
    if not np.isfinite(numbers).all():
        raise FeatureError(f"feature {name} (kind vector) has a number that is not finite")
    return numbers
