"""kill -9 at each system call that the log makes, and calls that fail, below the level of a broker.

The driver build/<preset>/bin/spool_writer leads one log through a life: start, appends that roll, seal and sync, STATE,
segments that are given back, stop. What it did stands in a file of notes that survives it. After each fault another
process opens the log, compares it with the notes, appends some more and finishes everything.

Short: of each kind of system call the first, the second, some in between and the last. MM_TEST_LONG=1: every one.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from conftest import long_form
from harness import strace
from harness.broker import plugin_file

_GOOD, _BROKEN, _CANNOT, _NOT_OPENED = 0, 1, 2, 3
_KILLED = -9

# What else a process does that has nothing to do with files: to fail it is not what this is about.
_NEVER_FAIL = {
    "brk",
    "getrandom",
    "exit_group",
    "exit",
    "getpgid",
    "rt_sigprocmask",
    "futex",
    "clone3",
    "clone",
    "getpid",
    "gettid",
}


@dataclass(frozen=True)
class Life:
    name: str
    options: tuple[str, ...]
    backlog: bool = False  # begins with what a killed process left
    garbage: bool = False  # and with a file that has only the name of a segment


_COMMON = ("--segment", "32768", "--max-bytes", "1048576", "--window", "16", "--readers", "2")
_LIVES = [
    Life("fresh", ("--appends", "150", "--drain")),
    Life("backlog", ("--appends", "100", "--drain", "--bad", "1"), backlog=True, garbage=True),
    Life("pwrite", ("--appends", "60", "--writer", "pwrite", "--drain"), backlog=True),
    Life("always", ("--appends", "60", "--sync", "always", "--drain"), backlog=True),
    Life("never", ("--appends", "60", "--sync", "never", "--drain"), backlog=True),
]


def _driver() -> str:
    path = plugin_file().parent.parent / "bin" / "spool_writer"
    assert path.exists(), f"no driver at {path}: build the tests"
    return str(path)


class Place:
    """One directory of a log, with its notes, which begins the same as often as wanted."""

    def __init__(self, root: Path, life: Life) -> None:
        self.life = life
        self.root = root
        self._beginning = root / "beginning"
        self._now = root / "now"
        self._beginning.mkdir(parents=True)
        notes = self._beginning / "notes"
        _call(_GOOD, "new", str(notes), "--capacity", "4096", "--payload", "20000")
        if life.backlog:
            directory = str(self._beginning / "spool")
            _call(_GOOD, "run", str(notes), "--dir", directory, *_COMMON, "--appends", "120", "--exit")
        if life.garbage:
            (self._beginning / "spool" / "00000000000000ff.seg").write_bytes(b"garbage" * 1000)
        self.begin_again()

    def begin_again(self) -> None:
        shutil.rmtree(self._now, ignore_errors=True)
        shutil.copytree(self._beginning, self._now)

    def argv(self, command: str, *more: str) -> list[str]:
        options = ("--dir", str(self._now / "spool"), *_COMMON, *self.life.options, *more)
        return [_driver(), command, str(self._now / "notes"), *options]

    def prove(self, what: str, *more: str) -> dict[str, object]:
        """The log is as the notes say, and can be used."""
        return _json(_call(_GOOD, *self.argv("prove", *more)[1:], what=what))

    def n_bad(self) -> int:
        """Files that are set aside."""
        return len(list((self._now / "spool" / "bad").glob("*")))

    def figures(self) -> dict[str, int]:
        return _json(_call(_GOOD, "show", str(self._now / "notes")))


def _json(text: str) -> dict[str, int]:
    return json.loads(text.splitlines()[-1])


def _call(expected: int, *arguments: str, what: str = "") -> str:
    done = subprocess.run([_driver(), *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == expected, f"{what}: {arguments}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(autouse=True)
def _no_leak_check(monkeypatch: pytest.MonkeyPatch) -> None:
    """LeakSanitizer does not run in a process that is traced."""
    monkeypatch.setenv("ASAN_OPTIONS", ":".join(filter(None, [os.environ.get("ASAN_OPTIONS"), "detect_leaks=0"])))


def _sample(n: int, inner: int) -> list[int]:
    """Which of 1 to n: all in the long form, else the first two, the last, and some in between."""
    if long_form() or n <= inner + 3:
        return list(range(1, n + 1))
    between = [3 + (n - 4) * (i + 1) // (inner + 1) for i in range(inner)]
    return sorted({1, 2, n, *between})


def _points(calls: strace.Calls, inner: int) -> Iterable[tuple[str, int]]:
    for name in sorted(calls.after):
        for n in _sample(calls.after[name], inner):
            yield name, n


@pytest.mark.parametrize("life", _LIVES, ids=lambda life: life.name)
def test_kill_at_each_system_call(tmp_path: Path, figure: Callable[[str], None], life: Life) -> None:
    """Killed at any call: what was acknowledged is there, once and right, and the log goes on."""
    place = Place(tmp_path, life)
    calls = strace.count(place.argv("run"), tmp_path / "calls")
    place.prove("a life without faults")
    kinds = {"openat", "fallocate", "pwrite64", "unlinkat", "flock", "mmap", "munmap"}
    assert kinds - {"mmap"} <= set(calls.after), f"of {kinds}, the log made only {calls.after}"
    kills = missed = 0
    for name, n in _points(calls, 1 if life == _LIVES[1] else 0):
        place.begin_again()
        ended = strace.kill_at(place.argv("run"), name, calls.when(name, n))
        assert ended.code in (_KILLED, _GOOD), f"{name} {n}: ended with {ended.code}: {ended.output}"
        place.prove(f"killed at call {n} of {calls.after[name]} of {name}")
        kills += ended.code == _KILLED
        missed += ended.code == _GOOD
    figure(
        f"{kills} kills at {len(calls.after)} kinds of calls ({sum(calls.after.values())} calls in a life), "
        f"{missed} too late"
    )
    # How often it syncs depends on the time that passes, so that the last call may not come.
    assert missed * 10 <= kills


@pytest.mark.parametrize("life", [_LIVES[1], _LIVES[2]], ids=lambda life: life.name)
def test_kill_again_while_it_recovers(tmp_path: Path, figure: Callable[[str], None], life: Life) -> None:
    """Killed, killed while it looks at what was left, and once more: the same as without."""
    place = Place(tmp_path, life)
    calls = strace.count(place.argv("run"), tmp_path / "calls")
    choice = random.Random(20)
    firsts = list(_points(calls, 2))
    kills = [0, 0, 0]
    for name, n in choice.sample(firsts, min(len(firsts), 60 if long_form() else 8)):
        place.begin_again()
        strace.kill_at(place.argv("run"), name, calls.when(name, n))
        shutil.rmtree(tmp_path / "killed", ignore_errors=True)
        shutil.copytree(tmp_path / "now", tmp_path / "killed")
        recovery = strace.count(place.argv("check"), tmp_path / "recovery")
        seconds = list(_points(recovery, 1))
        for again, m in choice.sample(seconds, min(len(seconds), 30 if long_form() else 4)):
            shutil.rmtree(tmp_path / "now")
            shutil.copytree(tmp_path / "killed", tmp_path / "now")
            for i in range(1 + choice.randrange(2)):
                when = recovery.when(again, 1 + choice.randrange(m))
                kills[1 + i] += strace.kill_at(place.argv("check"), again, when).code == _KILLED
            place.prove(f"killed at {name} {n}, then in its recovery at {again} {m}")
        kills[0] += 1
    figure(f"{kills[0]} lives killed, {kills[1]} recoveries killed, {kills[2]} of those once more")
    assert kills[1] > 0 and kills[2] > 0


def test_kill_at_each_system_call_of_its_threads(tmp_path: Path, figure: Callable[[str], None]) -> None:
    """The same where the log has threads of its own, one of which prepares segments and one of which seals, syncs and
    deletes: what they have done when the process is killed is different each time."""
    place = Place(tmp_path, Life("threads", ("--appends", "2000", "--threads", "--drain"), backlog=True))
    calls = strace.count(place.argv("run"), tmp_path / "calls")
    kinds = {"openat", "fallocate", "mmap", "munmap", "pwrite64", "fdatasync", "unlinkat"}
    assert kinds <= set(calls.after), f"of {kinds}, the log made only {calls.after}"
    kinds |= {"pread64", "msync", "ftruncate", "madvise", "close", "fsync"} & set(calls.after)
    kills = missed = 0
    for name in sorted(kinds):
        for n in _sample(calls.after[name], 2):
            place.begin_again()
            ended = strace.kill_at(place.argv("run"), name, calls.when(name, n) if n % 2 else n)
            assert ended.code in (_KILLED, _GOOD), f"{name} {n}: ended with {ended.code}: {ended.output}"
            place.prove(f"killed at call {n} of {calls.after[name]} of {name}")
            kills += ended.code == _KILLED
            missed += ended.code == _GOOD
    figure(f"{kills} kills, {missed} too late")
    assert kills > len(kinds)


# What a start looks at its files by.
_LOOKS = {"newfstatat", "openat", "pread64"}

_ERRORS = {
    "openat": ("EIO", "ENOSPC", "EMFILE", "EACCES"),
    "fallocate": ("EIO", "ENOSPC", "EDQUOT"),
    "mmap": ("ENOMEM",),
    "pwrite64": ("EIO", "ENOSPC"),
    "write": ("EIO", "ENOSPC"),
    "mkdirat": ("ENOSPC", "EROFS"),
    "mkdir": ("ENOSPC", "EROFS"),
}


def _errors(name: str, for_ever: bool) -> Sequence[str]:
    errors = _ERRORS.get(name, ("EIO",))
    return errors if long_form() else errors[: 1 if for_ever else 2]


@pytest.mark.parametrize("for_ever", [False, True], ids=["once", "for ever"])
@pytest.mark.parametrize("life", [_LIVES[0], _LIVES[1], _LIVES[2], _LIVES[3]], ids=lambda life: life.name)
def test_a_call_that_fails(tmp_path: Path, figure: Callable[[str], None], life: Life, for_ever: bool) -> None:
    """A call fails, once or from then on: no crash, no wrong record, nothing acknowledged is lost. After a call that
    failed once the log takes records again. A file that a start can look at never, though it could at others, is set
    aside, and what was in it is counted."""
    place = Place(tmp_path, life)
    calls = strace.count(place.argv("run"), tmp_path / "calls")
    faults = not_opened = refused = 0
    for name, n in _points(calls, 0):
        if name in _NEVER_FAIL:
            continue
        for error in _errors(name, for_ever):
            place.begin_again()
            when = str(calls.when(name, n)) + ("+" if for_ever else "")
            ended = strace.fail_at(place.argv("run"), name, error, when)
            what = f"{name} {n} of {calls.after[name]} failed with {error}"
            assert ended.code in (_GOOD, _NOT_OPENED), f"{what}: ended with {ended.code}: {ended.output}"
            if ended.code == _NOT_OPENED:
                not_opened += 1
                assert str(tmp_path) in ended.output, f"{what}: the error does not name the path: {ended.output}"
            else:
                figures = place.figures()
                refused += figures["refused"]
                if not for_ever:
                    assert figures["refused"] * 2 < figures["attempted"], f"{what}: it takes no records any more"
            # What could not be written into STATE may come again.
            lost = ("--loss", "--bad", str(place.n_bad())) if for_ever and name in _LOOKS else ()
            place.prove(what, "--back", *lost)
            faults += 1
    figure(f"{faults} faults: {not_opened} starts refused, {refused} records refused")
    assert faults > 0
