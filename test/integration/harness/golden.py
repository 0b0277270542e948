"""The golden vectors of test/data: what the Go program wrote to Kafka, byte for byte."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from pathlib import Path

_FILE = Path(__file__).resolve().parents[2] / "data" / "golden.jsonl"


@dataclass(frozen=True)
class Vector:
    name: str
    topic: bytes
    payload: bytes
    values: dict[str, bytes]  # by the setting of json_field_names
    carried: bool  # does mosquitto take a PUBLISH with this topic?


def vectors() -> list[Vector]:
    def decode(text: str) -> bytes:
        return base64.b64decode(text, validate=True)

    rows = [json.loads(line) for line in _FILE.read_text().splitlines()]
    return [
        Vector(
            row["name"],
            decode(row["topic_base64"]),
            decode(row["payload_base64"]),
            {
                "Topic,Content": decode(row["value_capital_base64"]),
                "topic,content": decode(row["value_small_base64"]),
            },
            row["mosquitto_takes"],
        )
        for row in rows
    ]
