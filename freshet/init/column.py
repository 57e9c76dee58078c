"""One column of a sample, with properties of its cells: words of its name, distinct values, numbers."""

import datetime
import itertools
import math
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property

import msgspec
import numpy as np

from stream.files.columns import DataSettings, missing_test, number_reader
from stream.files.times import Cell

NOTHING = (
    "NULL", "null", "NaN", "nan", "NA", "N/A", "n/a", "#N/A", "<NA>", "None", "none", "(null)", "\\N", "-",
    "?", "inf", "-inf", "Infinity", "-Infinity",
)  # fmt: skip
"""Cells with which programs write "no value" in a column of numbers."""

_CHINESE = {
    "时间": "time", "日期": "date", "点击": "click", "标签": "label", "用户": "user", "商品": "item",
    "物品": "item", "价格": "price", "评分": "rating", "购买": "purchase", "数量": "count", "年龄": "age",
    "性别": "gender", "城市": "city", "类别": "category", "编号": "id", "曝光": "impression",
    "转化": "conversion", "广告": "ad", "设备": "device",
    "品牌": "brand", "店铺": "shop", "金额": "amount", "收藏": "favorite",
}  # fmt: skip
"""Parts of names in a language without spaces between words. A column's values have more weight than its
name.
"""

_OTHER_LANGUAGES = {
    "user": "benutzer nutzer kunde kunden utilisateur usuario usuário utente gebruiker klant пользователь",
    "item": "artikel produkt produit articulo artículo producto produto articolo prodotto товар",
    "price": "preis prix precio preço prezzo prijs цена",
    "time": "zeit zeitpunkt uhrzeit zeitstempel heure horodatage hora tijd tijdstip время",
    "date": "datum fecha дата",
    "category": "kategorie categorie catégorie categoria categoría категория",
    "device": "gerät geraet appareil dispositivo apparaat",
    "city": "stadt ville ciudad cidade città город",
    "country": "land pays país paese страна",
}  # fmt: skip
_MEANING = {word: means for means, words in _OTHER_LANGUAGES.items() for word in words.split()}
"""Words of other languages with spaces between them, each with the English one that it is taken for."""

_PAST = {
    "hist", "historical", "historic", "rolling", "trailing", "recent", "before", "lifetime", "average", "ctr",
    "cvr",
}  # fmt: skip
_PERIOD = re.compile(r"\d+(h|d|w|hours?|days?|weeks?|months?)").fullmatch
_OF_RATES = {
    "click",
    "clicks",
    "through",
    "conversion",
    "purchase",
    "buy",
    "like",
    "open",
    "order",
    "install",
}


FEW = 32  # up to so many different values, whole numbers are ids, whatever the name
HASH_DIGITS = 9  # digits of a whole number from which on it may be a hash
SMOOTH, SMOOTH_PAIRS = 0.6, 20  # correlation of neighbours' frequencies, and of how many at least
FALLING = 0.6  # correlation of rank by size with rank by frequency
SPREAD_MIN = 0.15  # least standard deviation of the logarithms of frequencies


class Column:
    """One column of the sample.

    Attributes:
        name: as the file has it, or made up where it has none.
        cells: one per line.
        filled: those that are not empty.
        decimal: the mark before the fraction of numbers that are text.
        thousands: the mark between their thousands; empty: none.
    """

    def __init__(
        self,
        name: str,
        cells: Sequence[Cell],
        missing: Collection[str] = (),
        decimal: str = ".",
        thousands: str = "",
    ) -> None:
        self.name = name
        self.cells = cells
        self.decimal, self.thousands = decimal, thousands
        self._read = number_reader(decimal, thousands)
        self.is_missing = missing_test(DataSettings(missing=list(missing)))
        self.filled = [cell for cell in cells if not self.is_missing(cell)]

    @cached_property
    def words(self) -> set[str]:
        """The name's words, lower case: those of `userId`, `user_id` and `userid` are user and id. One that
        says that a value is of the time before has the word past too: `clicks_7d`, `item_ctr`, `click_rate`.
        """
        apart = re.sub(r"([a-z0-9])([A-Z])", r"\1 \2", self.name)
        words = {word.lower() for word in re.split(r"[\W_]+", apart) if word}
        words |= {word for part, word in _CHINESE.items() if part in self.name}
        words |= {_MEANING[word] for word in words & _MEANING.keys()}
        if words & _PAST or any(map(_PERIOD, words)) or ("rate" in words and words & _OF_RATES):
            words.add("past")
        return words | {
            part for word in words if len(word) > 4 and word.endswith("id") for part in (word[:-2], "id")
        }

    @cached_property
    def counts(self) -> Counter[str]:
        """The count of each value, as text."""
        return Counter(str(cell) for cell in self.filled)

    @cached_property
    def numbers(self) -> list[float] | None:
        """The filled cells as finite numbers; None: some are not numbers, or there are none."""
        found = []
        for cell in self.filled:
            if isinstance(cell, bool | list | dict | datetime.date):
                return None
            try:
                found.append(self._read(cell))
            except ValueError:
                return None
        return found or None

    @cached_property
    def whole(self) -> bool:
        """Whether all are whole numbers, written as such or, as pandas does, as 7.0."""
        return self.numbers is not None and all(number.is_integer() for number in self.numbers)

    @cached_property
    def dotted(self) -> bool:
        """Whether a whole number is written as 7.0."""
        return self.whole and any(
            isinstance(cell, float) or self.decimal in str(cell) for cell in self.filled
        )

    def number_of(self, cell: Cell) -> float | None:
        """A cell as a number; None: it is not one."""
        try:
            return None if self.is_missing(cell) or isinstance(cell, bool | list | dict) else self._read(cell)
        except ValueError:
            return None


def is_time_text(cell: Cell) -> bool:
    """Whether a cell is a time or a date in ISO 8601."""
    if isinstance(cell, datetime.date):
        return True
    if not isinstance(cell, str) or cell.isdigit() or len(cell) < 8:
        return False
    try:
        datetime.datetime.fromisoformat(cell)
    except ValueError:
        return False
    return True


def shown(value: Cell) -> str:
    """A cell for a message, shortened."""
    text = str(value)
    return msgspec.json.encode(text if len(text) <= 24 else text[:23] + "…").decode()


def hash_like(numbers: Sequence[float]) -> bool:
    """Whether whole numbers look like hashes: many digits, nearly all equally many, far apart.

    >>> hash_like([-7378697629483816, 9223372036854770, 1844674407370954]), hash_like([120_000, 99_000])
    (True, False)
    """
    values = sorted({abs(number) for number in numbers})
    digits = [len(f"{value:.0f}") for value in values]
    most = max(digits)
    if most < HASH_DIGITS:
        return False
    alike = sum(count >= most - 2 for count in digits) / len(digits)
    spread = (values[-1] - values[0]) / values[-1]  # times have many digits too, but are close together
    # amounts with so many digits are rounded to hundreds or thousands
    rounded = sum(value % 100 == 0 for value in values) / len(values)
    return alike >= 0.9 and spread >= 0.3 and (rounded < 0.1 or most > 12)


def smooth(numbers: Sequence[float]) -> bool:
    """Whether neighbouring whole numbers are about equally frequent, and distant ones are not: then they are
    counts. The frequency of one id says nothing about the next id. Measured as the correlation of the
    logarithms of the frequencies of neighbours.
    """
    counts = Counter(numbers)
    if len(counts) > FEW and _falling(counts):
        return True
    pairs = [(math.log(count), math.log(counts[v + 1])) for v, count in counts.items() if v + 1 in counts]
    if len(pairs) < SMOOTH_PAIRS or len(numbers) < 3 * len(counts):
        return False
    left, right = np.array(pairs).T
    if min(left.std(), right.std()) < SPREAD_MIN:  # all equally frequent: no information
        return False
    return float(np.corrcoef(left, right)[0, 1]) >= SMOOTH


def _falling(counts: Mapping[float, int]) -> bool:
    """Whether frequency falls steadily from the smallest number on, with few gaps."""
    values = sorted(counts)
    dense = sum(b - a == 1 for a, b in itertools.pairwise(values[: len(values) // 2])) / (len(values) // 2)
    often = np.array([counts[value] for value in values], dtype=np.float64)
    ranks = often.argsort().argsort()
    fall = -float(np.corrcoef(ranks, np.arange(len(ranks)))[0, 1])
    return values[0] <= 1 and dense >= 0.7 and fall >= FALLING
