"""Words that labels are written in: what was done, and yes or no in several languages."""

import re
import unicodedata
from collections.abc import Collection

POSITIVE_VALUES = {
    "click", "clicked", "clickout", "cart", "addtocart", "add_to_cart", "fav", "favorite", "favourite",
    "purchase", "purchased", "buy", "bought", "transaction", "order", "ordered", "checkout", "conversion",
    "convert", "converted", "like", "liked", "yes", "y", "pos", "positive", "play", "watch", "t", "share",
    "subscribe", "signup", "sign_up", "install", "download", "wishlist", "bookmark", "save", "saved",
    "collect", "follow", "comment", "book", "booking", "reserve", "pay", "paid", "accept", "accepted",
}  # fmt: skip
NEGATIVE_VALUES = {
    "view", "viewed", "views", "impression", "show", "shown", "pv", "pageview", "page_view", "no", "n", "neg",
    "negative", "none", "skip", "skipped", "dislike", "disliked", "remove", "remove_from_cart",
    "removefromcart", "ignore", "ignored", "f", "hide", "close", "dismiss", "reject", "rejected", "noclick",
    "no_click", "not_clicked", "exposure", "browse", "detail",
}  # fmt: skip
YES = {
    "yes", "y", "true", "t", "on", "positive", "pos", "ja", "oui", "sí", "si", "sì", "sim", "tak", "да", "是",
    "はい", "evet", "igen", "kyllä", "ano", "так", "ναι", "예", "نعم", "כן", "vrai", "wahr",
    "verdadero", "vero", "verdadeiro", "clicked",
}  # fmt: skip
NO = {
    "no", "n", "false", "f", "off", "negative", "neg", "nein", "non", "não", "nao", "nee", "nej", "nie",
    "нет", "否", "いいえ", "hayır", "hayir", "nem", "ei", "nei", "ні", "όχι", "아니오", "아니요", "لا", "לא",
    "不是", "faux", "falsch", "falso", "not_clicked",
}  # fmt: skip
"""Answers. Those that are in no list above are labels only where all values are answers: `no` and `si` are
languages too (as are `da` and `ne`, which are therefore none), and `on` and `off` may be a switch."""


def plain_word(value: str) -> str:
    """A word as the lists of known words have it.

    >>> plain_word(" Add-to cart"), plain_word("SI\u0301")
    ('add_to_cart', 'sí')
    """
    return re.sub(r"[\s-]+", "_", unicodedata.normalize("NFC", value).strip().lower())


def are_answers(values: Collection[str]) -> bool:
    """Whether these are a yes and a no, however often and in whatever case.

    >>> are_answers(["Yes", "NO"]), are_answers(["oui", "non", "peut-être"]), are_answers(["no", "sv"])
    (True, False, False)
    """
    plain = {plain_word(value) for value in values}
    return bool(plain & YES) and bool(plain & NO) and plain <= YES | NO


def positives(values: Collection[str]) -> list[str]:
    """Those of the values that count as 1, sorted; empty: none is known."""
    known = POSITIVE_VALUES | YES if are_answers(values) else POSITIVE_VALUES
    return sorted(value for value in values if plain_word(value) in known)


def negatives(values: Collection[str]) -> list[str]:
    """Those of the values that are known to count as 0, sorted."""
    known = NEGATIVE_VALUES | NO if are_answers(values) else NEGATIVE_VALUES
    return sorted(value for value in values if plain_word(value) in known)
