"""A coroutine that starts at once, and is awaited only if it must wait.

A timeout around a wait costs time even if there is nothing to wait for: the body of a request has nearly
always arrived before the server reads it. With `Begun` only a real wait needs a timeout.
"""

from collections.abc import Awaitable, Coroutine, Generator
from typing import Any, Generic, TypeVar, cast

T = TypeVar("T")


class Begun(Generic[T]):
    """Runs a coroutine up to its first wait. Create and await it in the same task.

    Args:
        awaitable: a coroutine, the result of calling an `async def`.
    """

    def __init__(self, awaitable: Awaitable[T]) -> None:
        self._coroutine = cast("Coroutine[Any, Any, T]", awaitable)
        self._result: T
        self._waits_for: Any = None
        self.done = False  # True from the start if it did not wait
        try:
            self._waits_for = self._coroutine.send(None)
        except StopIteration as end:
            self._result, self.done = end.value, True

    def result(self) -> T:
        """The return value of the coroutine, once done."""
        return self._result

    def __await__(self) -> Generator[Any, Any, T]:
        """Continue from the first wait."""
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
