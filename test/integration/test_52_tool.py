"""The tool as a whole: what goes wrong is told, and ends it with another number than 0."""

from __future__ import annotations

import subprocess

import pytest

from harness.tool import tool, tool_binary


@pytest.mark.parametrize("args", [["version"], ["options"], ["--help"], ["spool", "--help"]], ids=" ".join)
def test_output_that_cannot_be_written(args: list[str]) -> None:
    with open("/dev/full", "w") as full:
        ended = subprocess.run([tool_binary(), *args], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert ended.returncode == 1
    assert "standard output cannot be written" in ended.stderr


def test_usage_ends_where_it_is_over() -> None:
    for args in (["--help"], ["version", "--help"], ["options", "--help"], ["version", "more"], ["options", "more"]):
        ended = tool(*args)
        assert (ended.code == 2) == ("more" in args)
        text = ended.out + ended.err
        assert "usage: metamorphosis" in text
        assert all(line == line.rstrip() for line in text.splitlines()), text


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["check-config", ""], 'FILE "": expected the name of a file'),
        (["mock-kafka", "--topic", "a b"], '--topic "a b": expected 1 to 249 of the characters'),
        (["mock-kafka", "--topic", "a:0"], '--topic "a:0": expected NAME or NAME:PARTITIONS'),
        (["no-such"], 'unknown command "no-such"'),
    ],
    ids=" ".join,
)
def test_bad_arguments(args: list[str], told: str) -> None:
    ended = tool(*args)
    assert ended.code == 2
    assert told in ended.err
