"""The fast publisher of the benchmarks (bench/loadgen.c)."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from harness.broker import plugin_file

_ROOT = Path(__file__).resolve().parents[3]


def _binary() -> Path:
    """It lies beside the plugin, in bin."""
    places = [plugin_file().parent.parent / "bin" / "loadgen", _ROOT / "build" / "release" / "bin" / "loadgen"]
    found = next((place for place in places if place.exists()), None)
    assert found is not None, f"no loadgen at {places[0]}: build it (scripts/test.sh does)"
    return found


def start_loadgen(port: int, **options: int | str) -> subprocess.Popen[str]:
    """Options as the program's, without --."""
    argv = [str(_binary()), f"--port={port}", *(f"--{name}={value}" for name, value in options.items())]
    return subprocess.Popen(["setpriv", "--pdeathsig", "KILL", "--", *argv], stdout=subprocess.PIPE, text=True)


def report_of(process: subprocess.Popen[str], timeout: float = 600) -> dict[str, Any]:
    """Wait for its end; what it measured."""
    text, _ = process.communicate(timeout=timeout)
    assert process.returncode == 0, f"loadgen ended with {process.returncode}"
    report: dict[str, Any] = json.loads(text)
    return report


def loadgen(port: int, **options: int | str) -> dict[str, Any]:
    return report_of(start_loadgen(port, **options))
