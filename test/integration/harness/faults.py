"""System calls that fail or take long, by strace's fault injection."""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence
from pathlib import Path

from harness.processes import Child
from harness.wait import wait_until


def _expressions(calls: str, faults: Sequence[str], paths: Sequence[Path]) -> list[str]:
    argv = ["-f", "-qqq", "-e", f"trace={calls}", "-e", "signal=none"]
    for fault in faults:
        argv += ["-e", f"inject={calls}:{fault}"]
    for path in paths:
        argv += ["-P", str(path)]
    return argv


def launcher(output: Path, calls: str, *faults: str) -> list[str]:
    """What to put before a command line, so that these calls of the process have the faults from its start on. The
    process keeps its place as our child; other calls cost it nothing."""
    return ["strace", "-D", "--seccomp-bpf", "-o", str(output), *_expressions(calls, faults, ())]


def injected(output: Path) -> int:
    """How many faults there were."""
    return len(re.findall(r"\((?:INJECTED|DELAYED)\)", output.read_text(errors="replace"))) if output.exists() else 0


class Faults:
    """As long as it is entered, all threads of a process have the faults: calls as strace's trace= takes them
    ("fdatasync,msync"), faults as its inject= does ("error=EIO:when=1"; counted for each thread on its own). paths:
    only calls on these files."""

    def __init__(self, directory: Path, pid: int, calls: str, *faults: str, paths: Sequence[Path] = ()) -> None:
        self._pid = pid
        self._output = directory / "strace.out"
        self._messages = directory / "strace.err"
        self._output.unlink(missing_ok=True)
        self._argv = ["strace", "-o", str(self._output), *_expressions(calls, faults, paths), "-p", str(pid)]
        self._child: Child | None = None

    def __enter__(self) -> Faults:
        child = self._child = Child("strace", self._argv, self._messages)

        def attached() -> bool:
            assert child.running, f"strace ended: {child.tail()}"
            threads = Path(f"/proc/{self._pid}/task").glob("*/status")
            return all(re.search(r"^TracerPid:\s+[1-9]", t.read_text(), re.MULTILINE) for t in threads)

        wait_until(attached, 20, "strace is attached to every thread", interval=0.01)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._child is not None
        self._child.signal(signal.SIGINT)
        self._child.wait(20)

    @property
    def n(self) -> int:
        """How many there were so far."""
        return injected(self._output)
