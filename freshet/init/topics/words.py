"""What the words for what people did mean: `click`, `Order Completed`, `add_to_cart`, `ProductViewed`."""

import re
from collections.abc import Collection
from typing import Literal

from freshet.init.labels.words import NEGATIVE_VALUES, POSITIVE_VALUES, plain_word

Meaning = Literal["click", "cart", "buy", "other", "none", ""]
"""A target; `other`: something good beside them; `none`: nothing good; empty: the word is unknown."""

TARGETS: tuple[Meaning, ...] = ("click", "cart", "buy")
"""In the order in which people do them."""

_NONE = {
    "view", "viewed", "views", "seen", "impression", "shown", "show", "displayed", "exposed", "removed",
    "remove", "cancelled", "canceled", "cancel", "refunded", "refund", "returned", "return", "failed",
    "declined", "started", "begin", "abandoned", "dislike", "disliked", "unlike", "unfollow", "hidden",
    "hide", "skipped",
    "skip", "dismissed", "dismiss", "not", "no", "un", "pending",
}  # fmt: skip
_CART = {"cart", "basket", "added", "trolley", "addtocart"}
_BUY = {
    "purchase", "purchased", "purchases", "buy", "buys", "bought", "transaction", "order", "orders",
    "ordered", "conversion", "conversions", "converted", "pay", "paid", "payment", "booking", "bookings",
    "book", "booked", "checkout", "sale", "sold",
}  # fmt: skip
_CLICK = {
    "click", "clicked", "clicks", "clickout", "open", "opened", "play", "played", "plays", "tap", "tapped",
    "select", "selected",
}  # fmt: skip
_BY_WORDS: tuple[tuple[Meaning, set[str]], ...] = (
    ("none", _NONE),
    ("cart", _CART),
    ("buy", _BUY),
    ("click", _CLICK),
)
"""The first one with a word of a name is its meaning: a refunded order is no order."""


def meaning_of(word: str) -> Meaning:
    """What a word for what was done means.

    >>> [meaning_of(word) for word in ("ORDER", "Product Clicked", "add-to-cart", "OrderRefunded", "frob")]
    ['buy', 'click', 'cart', 'none', '']
    """
    parts = words_in(word)
    for meaning, known in _BY_WORDS:
        if parts & known:
            return meaning
    plain = plain_word(word)
    if plain in NEGATIVE_VALUES:
        return "none"
    return "other" if plain in POSITIVE_VALUES or parts & POSITIVE_VALUES else ""


def meaning_of_name(words: Collection[str]) -> Meaning:
    """The target that a topic named so is of: clicks, unless it says more."""
    if _CLICK & set(words):
        return "click"
    return next(
        (meaning for meaning, known in _BY_WORDS if known & set(words) and meaning in TARGETS), "click"
    )


def words_in(text: str) -> set[str]:
    """The words of a name, lower case.

    >>> sorted(words_in("addToCart-v2 Done"))
    ['add', 'cart', 'done', 'to', 'v2']
    """
    apart = re.sub(r"([a-z0-9])([A-Z])", r"\1 \2", text)
    return {part.lower() for part in re.split(r"[\W_]+", apart) if part}
