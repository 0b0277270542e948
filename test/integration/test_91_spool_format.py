"""docs/spool-format.md is enough to read a spool: a reader written from it reads the same as the plugin's."""

from __future__ import annotations

import json
import re
from pathlib import Path

from harness import spool_format

_GOLDEN = Path(__file__).resolve().parents[1] / "data" / "spool-v1"
_DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "spool-format.md"


def test_another_reader_reads_the_same() -> None:
    expected = (_GOLDEN / "expected.jsonl").read_text()
    lines = list(spool_format.describe(_GOLDEN))
    assert "".join(json.dumps(line) + "\n" for line in lines) == expected
    records = [line for line in lines if "seq" in line]
    assert len(records) == 23
    for record in records:
        assert record["topic_hash"] == spool_format.topic_hash(bytes.fromhex(record["topic"]))


def test_the_example_is_in_the_file() -> None:
    """Each byte that the document shows is there, and of the structures shown, what it leaves out is 0."""
    data = (_GOLDEN / "000000000000000a.seg").read_bytes()
    shown = {
        int(place, 16): bytes.fromhex(digits)
        for place, digits in re.findall(r"^    ([0-9a-f]{4})  ((?:[0-9a-f]{2} {1,2})+)", _DOCUMENT.read_text(), re.M)
    }
    assert sum(map(len, shown.values())) == 76 + 52 + 72
    rest = bytearray(data)
    for place, expected in shown.items():
        assert data[place : place + len(expected)] == expected, f"at {place:#x}"
        rest[place : place + len(expected)] = bytes(len(expected))
    assert not any(rest[:2048])
    assert not any(rest[0x1030:0x1078])
