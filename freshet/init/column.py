"""One column of a sample, with properties of its cells: words of its name, distinct values, numbers."""

import datetime
import re
from collections import Counter
from collections.abc import Collection, Sequence
from functools import cached_property

import msgspec

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


class Column:
    """One column of the sample.

    Attributes:
        name: as the file has it, or made up where it has none.
        cells: one per line.
        filled: those that are not empty.
        decimal: the mark before the fraction of numbers that are text.
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
        self.decimal = decimal
        self._read = number_reader(decimal, thousands)
        self.is_missing = missing_test(DataSettings(missing=list(missing)))
        self.filled = [cell for cell in cells if not self.is_missing(cell)]

    @cached_property
    def words(self) -> set[str]:
        """The name's words, lower case: those of `userId`, `user_id` and `userid` are user and id."""
        apart = re.sub(r"([a-z0-9])([A-Z])", r"\1 \2", self.name)
        words = {word.lower() for word in re.split(r"[\W_]+", apart) if word}
        words |= {word for part, word in _CHINESE.items() if part in self.name}
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
