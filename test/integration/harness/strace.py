"""Programs whose system calls are counted, fail or are the last thing they do, by strace's fault injection.

A program marks by the call getpgid(0), which nothing else uses, from where on its calls are of interest.
"""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_CALL = re.compile(r"^(?:\d+ +)?(?:<\.\.\. )?(\w+)(?:\(| resumed)")
_TIMEOUT = 60.0


@dataclass(frozen=True)
class Calls:
    before: Counter[str]  # of each system call, up to the first mark
    after: Counter[str]

    def when(self, name: str, n: int) -> int:
        """What strace's `when` is for the n-th call behind the mark, n = 1, 2, ..."""
        return self.before[name] + n


@dataclass(frozen=True)
class Ended:
    code: int  # -9: killed
    output: str


def _strace(arguments: Sequence[str], argv: Sequence[str]) -> Ended:
    done = subprocess.run(
        ["strace", "-f", "-qqq", *arguments, "--", *argv],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=_TIMEOUT,
        check=False,
        text=True,
        errors="replace",
    )
    return Ended(done.returncode, done.stdout)


def count(argv: Sequence[str], log: Path) -> Calls:
    """Run a program to its end and count what it calls."""
    ended = _strace(["-o", str(log)], argv)
    assert ended.code == 0, f"{argv} ended with {ended.code}: {ended.output}"
    calls = Calls(Counter(), Counter())
    marked = False
    for line in log.read_text(errors="replace").splitlines():
        found = _CALL.match(line)
        if not found or "resumed" in line[: found.end()]:
            continue  # a signal, the end of a process, or the second half of a call that was counted
        if found[1] == "getpgid":
            marked = True
            continue
        (calls.after if marked else calls.before)[found[1]] += 1
    assert marked, f"{argv} never made the marking call"
    return calls


def kill_at(argv: Sequence[str], call: str, when: int) -> Ended:
    """Run a program and kill it when it makes this call for the when-th time, before the call has an effect."""
    return _strace(["-e", f"trace={call}", "-o", "/dev/null", "-e", f"inject={call}:signal=KILL:when={when}"], argv)


def fail_at(argv: Sequence[str], call: str, error: str, when: str) -> Ended:
    """Run a program in which this call fails: when as strace's, "5" or "5+" for the fifth and all later ones. The call
    has no effect."""
    return _strace(["-e", f"trace={call}", "-o", "/dev/null", "-e", f"inject={call}:error={error}:when={when}"], argv)
