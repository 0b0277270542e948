"""The command-line tool, which lies beside the plugin."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.broker import plugin_file


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        """What --json printed, as one document."""
        return dict(json.loads(self.out))

    @property
    def objects(self) -> list[dict[str, Any]]:
        """What --json printed, one object a line."""
        return [json.loads(line) for line in self.out.splitlines()]


def tool_binary() -> Path:
    return plugin_file().parent.parent / "bin" / "metamorphosis"


def tool(*args: str | Path, timeout: float = 60.0) -> Outcome:
    done = subprocess.run(
        [tool_binary(), *args], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=timeout
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


def good(*args: str | Path, timeout: float = 60.0) -> Outcome:
    """Run it, and expect exit code 0."""
    outcome = tool(*args, timeout=timeout)
    assert outcome.code == 0, f"{args}: {outcome}"
    return outcome
