"""Notices when one feature's ids come both as integers and as digits in text, and says so once.

The integer 3 and the text "3" are two ids with two rows. Both are scored and learnt without an error, so
two producers, or a producer and a caller, can differ in this for weeks and only lose quality.
"""

import logging
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

LOOKED_AT = 64
"""Ids of one feature in one call: a batch of thousands of rows costs no more than a request."""

logger = logging.getLogger("freshet.learner")


class Spellings:
    """How the ids of features without a declared type have been written so far.

    Args:
        names: of the features, (F,).
        types: what each feature's ids are declared to be, (F,); one that is declared is not watched.
    """

    def __init__(self, names: Sequence[str], types: Sequence[str | None]) -> None:
        self._names = list(names)
        self._integers = [False] * len(names)
        self._digits = [False] * len(names)
        self._said = [type_ is not None for type_ in types]

    def note(self, column: int, ids: Iterable[Any]) -> None:
        """Look at the first ids of a call; the second spelling of a feature is logged, once for an encoder.

        Args:
            column: the feature's number.
            ids: as they were sent; None where a row has none.
        """
        if self._said[column]:
            return
        looked_at = list(islice(ids, LOOKED_AT))
        kinds = set(map(type, looked_at))
        if int in kinds:
            self._integers[column] = True
        if str in kinds and not self._digits[column]:
            texts = looked_at if len(kinds) == 1 else [one for one in looked_at if type(one) is str]
            self._digits[column] = any(map(str.isdecimal, texts))
        if self._integers[column] and self._digits[column]:
            self._said[column] = True
            name = self._names[column]
            logger.warning(
                'the ids of feature %s come both as integers and as digits in text: 3 and "3" are '
                "different ids, and each learns only from its own; send one of them everywhere, or set "
                'type = "int" or type = "text" in [features.%s]',
                name,
                name,
            )
