"""Waiting for something to become true, always with a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_until(
    condition: Callable[[], T | None],
    timeout: float,
    what: str | Callable[[], str],
    interval: float = 0.05,
) -> T:
    """Call condition until it returns something true, and return that.

    Fails with `what` (a text, or a function that makes one from the last state) after `timeout` seconds.
    """
    deadline = time.monotonic() + timeout
    while True:
        result = condition()
        if result:
            return result
        if time.monotonic() >= deadline:
            text = what() if callable(what) else what
            raise AssertionError(f"not within {timeout:g} s: {text}")
        time.sleep(interval)


def stays_true(condition: Callable[[], object], seconds: float, what: str, interval: float = 0.1) -> None:
    """Fail as soon as condition is false within the given time.

    For the absence of an event; there is no other way to see that nothing happens than to look for a while.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert condition(), what
        time.sleep(interval)
