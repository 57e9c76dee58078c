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
from math import log, sqrt

import numpy as np
import numpy.typing as npt
from numba import njit

from ground.kernels.mixing import mix
from ground.keys import hash_string
from learner.errors import FeatureError
from learner.features.values import Values, starts_of
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

_CODES_SALT = np.uint64(0x5BD1E995C0DE5EED)
_COORDINATES_SALT = np.uint64(0x2545F4914F6CDD1D)
_WORDS = re.compile(r"\w+")
# Scripts without spaces: Thai, Lao, Myanmar, Khmer, kana, Han.
_UNSPACED = re.compile(
    "([\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003ffff]+)"
)


def words_of(text: str) -> list[str]:
    """The words of a text, in order, without case and typographic variants.

    >>> words_of("Ｔhe Straße, 2 Été"), words_of("東京都 2020")
    (['the', 'strasse', '2', 'été'], ['東京', '京都', '2020'])
    """
    words: list[str] = []
    for word in _WORDS.findall(unicodedata.normalize("NFKC", text).casefold()):
        for i, part in enumerate(_UNSPACED.split(word)):
            if i % 2:
                words += [part[j : j + 2] for j in range(max(len(part) - 1, 1))]
            elif part:
                words.append(part)
    return words


@lru_cache(maxsize=TEXTS_KEPT)
def _bag(text: str) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """The hashed words of a text, each once, and their weights: the root of their squares' sum is 1."""
    counts = Counter(words_of(text))
    hashed = [(hash_string(word), 1.0 + log(count)) for word, count in counts.items()]
    if len(hashed) > WORDS_MAX:
        hashed = sorted(hashed)[:WORDS_MAX]
    norm = sqrt(sum(weight * weight for _, weight in hashed))
    return tuple(key for key, _ in hashed), tuple(weight / norm for _, weight in hashed)


def read_texts(name: str, values: Sequence[object]) -> Values:
    """Texts (n,) or None, as hashed words; a text without words has no entry.

    Raises:
        FeatureError: a value is no text, or too long.
    """
    keys: list[int] = []
    weights: list[float] = []
    sizes = np.zeros(len(values), dtype=np.int64)
    for r, value in enumerate(values):
        if value is None:
            continue
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
        key, weight = _bag(value)
        keys += key
        weights += weight
        sizes[r] = len(key)
    return Values(starts_of(sizes), np.array(keys, dtype=np.uint64), np.array(weights, dtype=np.float32))


def read_vectors(name: str, length: int, values: Sequence[object]) -> Values:
    """Vectors (n,), lists of `length` numbers or None, scaled to unit length; one entry a number that is not
    zero. A vector of zeros has none, as if it were absent.

    Raises:
        FeatureError: a value is no such list.
    """
    matrix = np.zeros((len(values), length))
    for r, value in enumerate(values):
        if value is not None:
            matrix[r] = _vector(name, length, value)
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
