"""Child processes that never outlive the test run.

Each child is registered until it has been reaped. What is left when Python ends is killed by an atexit function, and
what is left when Python itself is killed dies by the kernel's parent-death signal. That signal is sent when the
*thread* ends that started the child, so children are started by the main thread only.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

_children: set[Child] = set()


class Child:
    """One process, its standard output and error in a file."""

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        output: Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        assert threading.current_thread() is threading.main_thread(), "start children in the main thread"
        self.name = name
        self.output = output
        with output.open("ab") as out:
            self._popen = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "--", *argv],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=dict(env) if env is not None else None,
                cwd=cwd,
                start_new_session=True,  # Ctrl-C is for pytest, which ends its children in order
            )
        _children.add(self)

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def returncode(self) -> int | None:
        """Exit code, -N when ended by signal N, None while it runs."""
        code = self._popen.poll()
        if code is not None:
            _children.discard(self)
        return code

    @property
    def running(self) -> bool:
        return self.returncode is None

    def signal(self, number: int) -> None:
        if self.running:
            os.kill(self.pid, number)

    def wait(self, timeout: float) -> int:
        """Exit code. Raises subprocess.TimeoutExpired."""
        code = self._popen.wait(timeout)
        _children.discard(self)
        return code

    def terminate(self, timeout: float) -> tuple[float, int]:
        """SIGTERM. Returns the seconds until the end and the exit code; a child that stays is killed, and it is an
        error."""
        begin = time.monotonic()
        self.signal(signal.SIGTERM)
        try:
            code = self.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"{self.name} did not end within {timeout:g} s of SIGTERM\n{self.tail()}") from None
        return time.monotonic() - begin, code

    def kill(self) -> int:
        """SIGKILL, and reap."""
        self.signal(signal.SIGKILL)
        return self.wait(30)

    def text(self) -> str:
        return self.output.read_text(errors="replace") if self.output.exists() else ""

    def tail(self, lines: int = 40) -> str:
        return "\n".join(self.text().splitlines()[-lines:])


def kill_all() -> None:
    """End whatever is still alive."""
    for child in list(_children):
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            child.kill()


atexit.register(kill_all)
