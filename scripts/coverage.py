#!/usr/bin/env python3
"""Prints how many branches of which files were taken. Reads what llvm-cov exports as JSON on standard input.

coverage.py [--missing] FILE...     the files, as paths; --missing: also each branch that was not taken, as FILE:LINE
"""

import json
import sys
from pathlib import Path


def _missing(branches: list[list[int]]) -> list[tuple[int, int, str]]:
    """Line, column and which way, of each branch that was not taken."""
    found = []
    for line, column, _line_end, _column_end, n_true, n_false, *_rest in branches:
        if n_true == 0:
            found.append((line, column, "true"))
        if n_false == 0:
            found.append((line, column, "false"))
    return sorted(found)


def main(arguments: list[str]) -> None:
    show_missing = "--missing" in arguments
    wanted = [str(Path(name).resolve()) for name in arguments if not name.startswith("--")]
    files = {entry["filename"]: entry for entry in json.load(sys.stdin)["data"][0]["files"]}
    n_all = n_taken = 0
    lines = []
    for name in wanted:
        branches = files[name]["branches"]
        missing = _missing(branches)
        n = 2 * len(branches)
        n_all += n
        n_taken += n - len(missing)
        short = str(Path(name).relative_to(Path.cwd()))
        if n > 0:
            lines.append(f"{short:<34} {n - len(missing):5} of {n:5} branches  {100 * (n - len(missing)) / n:5.1f} %")
        if show_missing:
            lines += [f"{short}:{line}:{column}: never {way}" for line, column, way in missing]
    lines.append(f"{'together':<34} {n_taken:5} of {n_all:5} branches  {100 * n_taken / n_all:5.1f} %")
    print("\n".join(lines))


if __name__ == "__main__":
    main(sys.argv[1:])
