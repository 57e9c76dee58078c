"""A coroutine that is begun at once, and awaited only if it has to wait.

What watches over a wait, a time-out above all, costs more than most of what is waited for here: the body of
a request has nearly always arrived before anybody asks for it.
"""

from collections.abc import Awaitable, Coroutine, Generator
from typing import Any, Generic, TypeVar, cast

T = TypeVar("T")


class Begun(Generic[T]):
    """Runs a coroutine up to its first wait. To be made, and awaited, in one task.

    Args:
        awaitable: a coroutine, as a call of an `async def` gives it.
    """

    def __init__(self, awaitable: Awaitable[T]) -> None:
        self._coroutine = cast("Coroutine[Any, Any, T]", awaitable)
        self._result: T
        self._waits_for: Any = None
        self.done = False  # without having waited
        try:
            self._waits_for = self._coroutine.send(None)
        except StopIteration as end:
            self._result, self.done = end.value, True

    def result(self) -> T:
        """What it returned, once done."""
        return self._result

    def __await__(self) -> Generator[Any, Any, T]:
        """Go on from the first wait."""
        while not self.done:
            try:
                try:
                    got = yield self._waits_for
                except BaseException as error:
                    self._waits_for = self._coroutine.throw(error)
                else:
                    self._waits_for = self._coroutine.send(got)
            except StopIteration as end:
                self._result, self.done = end.value, True
        return self._result
