"""A thread beside a test, which does one thing again and again."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Self


class Beside:
    """Calls once() every `every` seconds, from the beginning of a `with` block to its end. What once() raises ends it,
    and is raised at the end of the block, unless the block raises something itself."""

    def __init__(self, every: float) -> None:
        self._every = every
        self._stop = threading.Event()
        self._problem: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=type(self).__name__, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, problem: BaseException | None, _: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join(30)
        self.ended()
        if self._problem is not None and problem is None:
            raise self._problem

    def once(self) -> None:
        raise NotImplementedError

    def ended(self) -> None:
        """Called when no call of once() is to come."""

    def _run(self) -> None:
        try:
            while not self._stop.wait(self._every):
                self.once()
        except BaseException as problem:  # handed to the test
            self._problem = problem
