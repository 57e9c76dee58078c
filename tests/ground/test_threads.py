"""A helper thread that dies is noticed by the role that it helps."""

import threading
import traceback

import pytest

from ground.threads import HelperThread


def _fail(stop: threading.Event) -> None:
    raise ZeroDivisionError("a defect in the helper")


def test_failure_is_raised_in_the_role_with_the_threads_own_traceback() -> None:
    helper = HelperThread("helper", _fail)
    helper.start()
    helper.stop()
    with pytest.raises(ZeroDivisionError, match="a defect in the helper") as caught:
        helper.check()
    assert "_fail" in "".join(traceback.format_tb(caught.value.__traceback__))


def test_failure_is_told_at_once() -> None:
    told: list[BaseException] = []
    helper = HelperThread("helper", _fail, on_failure=told.append)
    helper.start()
    helper.stop()
    assert [str(error) for error in told] == ["a defect in the helper"]


def test_work_ends_when_it_is_stopped_and_may_begin_again() -> None:
    began = []

    def work(stop: threading.Event) -> None:
        began.append(1)
        assert stop.wait(60.0)

    helper = HelperThread("helper", work)
    for times in (1, 2):
        with helper:
            assert helper.alive
            with pytest.raises(RuntimeError, match="runs already"):
                helper.start()
        assert not helper.alive
        helper.check()
        assert len(began) == times


def test_stop_is_harmless_where_nothing_was_started() -> None:
    helper = HelperThread("helper", _fail)
    helper.stop()
    helper.check()
