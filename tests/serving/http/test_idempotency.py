"""Answers kept under idempotency keys: what they may take, whose go first, and what happens to failures."""

import asyncio
import time
from collections.abc import Coroutine
from typing import Any

import pytest
from costs import least_ratio

from serving.errors import RequestError, UnavailableError
from serving.http.idempotency import ANSWER_SHARE, ENTRY_BYTES, KeptAnswer, KeptAnswers


def run(coroutine: Coroutine[Any, Any, None]) -> None:
    asyncio.run(coroutine)


async def ask(kept: KeptAnswers, caller: str, key: int, size: int = 0, status: int = 202) -> bool:
    """Ask under a key; returns whether the answer was another request's."""

    async def make() -> KeptAnswer:
        return KeptAnswer(status, b"x" * size)

    return (await kept.once(caller, "/v1/events", b"%d" % key, b"body", make))[1]


@pytest.mark.parametrize("size", [0, 5_000])
def test_one_caller_cannot_evict_what_others_keep(size: int) -> None:
    async def go() -> None:
        kept = KeptAnswers(entries_max=100, bytes_max=200_000, keep_s=60.0)
        for key in range(10):
            await ask(kept, "shop", key)
        for key in range(1_000):
            await ask(kept, "greedy", key, size)
        assert all([await ask(kept, "shop", key) for key in range(10)])
        assert await ask(kept, "greedy", 999, size), "the newest of the greedy one is kept as well"
        assert not await ask(kept, "greedy", 0, size)
        assert len(kept) <= 100

    run(go())


def test_answer_too_large_for_its_share_is_not_kept_and_evicts_nothing() -> None:
    async def go() -> None:
        kept = KeptAnswers(entries_max=100, bytes_max=ANSWER_SHARE * 2_000, keep_s=60.0)
        for key in range(10):
            await ask(kept, "", key)
        for key in range(10, 40):
            assert not await ask(kept, "", key, 2_000 - ENTRY_BYTES + 1)
        assert all([await ask(kept, "", key) for key in range(10)]) and len(kept) == 10
        assert not await ask(kept, "", 40, 2_000 - ENTRY_BYTES)
        assert await ask(kept, "", 40, 2_000 - ENTRY_BYTES)

    run(go())


def test_all_who_wait_get_the_failure_of_the_first_and_nothing_is_kept() -> None:
    async def go() -> None:
        kept = KeptAnswers(entries_max=10, bytes_max=100_000, keep_s=60.0)
        let = asyncio.Event()

        async def fail() -> KeptAnswer:
            await let.wait()
            raise RequestError("no such candidate")

        waiting = [asyncio.create_task(kept.once("", "/", b"k", b"", fail)) for _ in range(3)]
        await asyncio.sleep(0)
        let.set()
        for found in await asyncio.gather(*waiting, return_exceptions=True):
            assert isinstance(found, RequestError) and str(found) == "no such candidate"
        assert len(kept) == 0
        assert not await ask(kept, "", 1, status=503)
        assert not await ask(kept, "", 1, status=202), "a 5xx is not kept"

    run(go())


def test_those_who_wait_for_one_that_is_cancelled_are_told_to_come_again() -> None:
    async def go() -> None:
        kept = KeptAnswers(entries_max=10, bytes_max=100_000, keep_s=60.0)

        async def hang() -> KeptAnswer:
            await asyncio.Event().wait()
            raise AssertionError

        first = asyncio.create_task(kept.once("", "/", b"k", b"", hang))
        second = asyncio.create_task(kept.once("", "/", b"k", b"", hang))
        await asyncio.sleep(0)
        first.cancel()
        found = await asyncio.gather(first, second, return_exceptions=True)
        assert isinstance(found[0], asyncio.CancelledError)
        assert isinstance(found[1], UnavailableError) and "cut off" in str(found[1])

    run(go())


def test_keys_are_dropped_when_they_are_old_even_behind_one_at_work() -> None:
    async def go() -> None:
        now = [0.0]
        kept = KeptAnswers(entries_max=100, bytes_max=100_000, keep_s=60.0, clock=lambda: now[0])
        let = asyncio.Event()

        async def slow() -> KeptAnswer:
            await let.wait()
            return KeptAnswer(202, b"")

        at_work = asyncio.create_task(kept.once("", "/", b"slow", b"", slow))
        await asyncio.sleep(0)
        for key in range(20):
            await ask(kept, "", key)
        now[0] = 61.0
        assert not await ask(kept, "other", 0)
        assert len(kept) == 2, "the one at work, and the new one"
        let.set()
        await at_work

    run(go())


@pytest.mark.slow
def test_a_call_at_the_limit_costs_about_what_one_below_it_does() -> None:
    async def measure(keys: int) -> float:
        kept = KeptAnswers(entries_max=keys, bytes_max=1 << 30, keep_s=1e6)
        for key in range(keys):
            await ask(kept, "", key)
        times = []
        for key in range(keys, keys + 300):
            began = time.thread_time()
            await ask(kept, "", key)
            times.append(time.thread_time() - began)
        return sorted(times)[100]

    # a look at all 20,000 takes over 500 µs
    assert least_ratio(lambda: asyncio.run(measure(20_000)), lambda: asyncio.run(measure(100)) + 10e-6) < 5.0
