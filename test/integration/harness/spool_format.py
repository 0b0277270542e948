"""A reader of spool directories, written from docs/spool-format.md alone: what two readers read the same is told by the
document and not by accident.

As a program it prints what is in a directory, one JSON object a line:

    python3 -m harness.spool_format <directory>
"""

from __future__ import annotations

import json
import struct
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness.spool import crc32c

_VERSION = 1
_HEADER_LEN = 4096
_SLOT_LEN = 4096
_RECORD = struct.Struct("<IIQQIIIHBB")


def _u32(data: bytes, at: int) -> int:
    return int(struct.unpack_from("<I", data, at)[0])


def _u64s(data: bytes, at: int, n: int = 1) -> tuple[int, ...]:
    return struct.unpack_from(f"<{n}Q", data, at)


def _uuid(data: bytes, at: int) -> str:
    return str(uuid.UUID(bytes=data[at : at + 16]))


def _good_copy(copy: bytes) -> bool:
    return len(copy) == 128 and copy[:8] == b"MQKSPOOL" and crc32c(copy[:124]) == _u32(copy, 124)


def header(data: bytes) -> dict[str, Any]:
    """The segment header of a file. ValueError: there is none, or one of another version."""
    copies = [copy for copy in (data[:128], data[2048:2176]) if _good_copy(copy)]
    if not copies:
        raise ValueError("no good copy of the header")
    copy = copies[0]
    version, flags = struct.unpack_from("<II", copy, 8)
    if version != _VERSION:
        raise ValueError(f"version {version}")
    number, run_seq, salt, created_ms, size = _u64s(copy, 32, 5)
    return {
        "copies": len(copies),
        "version": version,
        "flags": flags,
        "uuid": _uuid(copy, 16),
        "number": number,
        "run_seq": run_seq,
        "salt": f"{salt:016x}",
        "created_ms": created_ms,
        "size": size,
    }


def seal(data: bytes, salt: int) -> dict[str, int] | None:
    """None: not sealed. ValueError: damaged."""
    block = data[1024:1088]
    if block == bytes(64):
        return None
    if block[:8] != b"MQKSSEAL" or crc32c(struct.pack("<Q", salt) + block[:60]) != _u32(block, 60):
        raise ValueError("a damaged seal")
    names = ("first_seq", "last_seq", "n_records", "first_ms", "end")
    return dict(zip(names, _u64s(block, 8, 5), strict=True))


def records(data: bytes, salt: int) -> Iterator[dict[str, Any]]:
    """The sound records of a segment file, damage and empty places passed over."""
    salt_bytes = struct.pack("<Q", salt)
    at = _HEADER_LEN
    while at + _RECORD.size <= len(data):
        fields = _RECORD.unpack_from(data, at)
        length, header_crc, seq, time_ms, body_crc, topic_hash, payload_len, topic_len, flags, kind = fields
        padded = (length + 7) // 8 * 8
        covered = salt_bytes + data[at : at + 4] + data[at + 8 : at + 40]
        if (
            length < _RECORD.size
            or at + padded > len(data)
            or topic_len + payload_len > length - _RECORD.size
            or crc32c(covered) != header_crc
        ):
            at += 8
            continue
        body = data[at + _RECORD.size : at + length]
        if crc32c(salt_bytes + struct.pack("<Q", seq) + body) == body_crc:
            yield {
                "offset": at,
                "seq": seq,
                "time_ms": time_ms,
                "topic_hash": topic_hash,
                "flags": flags,
                "type": kind,
                "topic": body[:topic_len].hex(),
                "payload": body[topic_len : topic_len + payload_len].hex(),
                "props": body[topic_len + payload_len :].hex(),
            }
        at += padded


def state_slot(data: bytes) -> dict[str, Any]:
    """One slot of STATE; empty: never written. ValueError: damaged, or of another version."""
    if data == bytes(_SLOT_LEN):
        return {}
    if data[:8] != b"MQKSTATE" or crc32c(data[:4092]) != _u32(data, 4092):
        raise ValueError("a damaged slot")
    if _u32(data, 8) != _VERSION:
        raise ValueError(f"version {_u32(data, 8)}")
    generation, written_ms, next_seq, n_pending, n_repeat = _u64s(data, 48, 5)
    ranges = [list(struct.unpack_from("<I4xQ", data, 512 + 16 * k)) for k in range(_u32(data, 88))]
    hashes = [first for first, _ in ranges]
    if not 1 <= len(ranges) <= 160 or hashes[0] != 0 or hashes != sorted(set(hashes)):
        raise ValueError("ranges that do not cover each hash once")
    return {
        "uuid": _uuid(data, 16),
        "boot": _uuid(data, 32),
        "generation": generation,
        "written_ms": written_ms,
        "next_seq": next_seq,
        "n_pending": n_pending,
        "n_repeat": n_repeat,
        "clean": bool(_u32(data, 12) & 1),
        "ranges": ranges,
        "counters": list(_u64s(data, 128, 32)),
    }


def topic_hash(topic: bytes) -> int:
    h = crc32c(topic)
    h ^= h >> 16
    h = h * 0x85EBCA6B & 0xFFFFFFFF
    h ^= h >> 13
    h = h * 0xC2B2AE35 & 0xFFFFFFFF
    return h ^ h >> 16


def describe(directory: Path) -> Iterator[dict[str, Any]]:
    """Segments with their records, and slots of STATE, of a directory and those in it, by path."""
    for path in sorted(path for path in directory.rglob("*") if path.is_file()):
        name = {"file": str(path.relative_to(directory))}
        data = path.read_bytes()
        if path.suffix == ".seg":
            of_header = header(data)
            salt = int(of_header["salt"], 16)
            yield name | {"len": len(data)} | of_header | {"seal": seal(data, salt)}
            yield from (name | record for record in records(data, salt))
        elif path.name == "STATE":
            for slot in range(2):
                yield name | {"slot": slot} | state_slot(data[slot * _SLOT_LEN : (slot + 1) * _SLOT_LEN])


if __name__ == "__main__":
    for line in describe(Path(sys.argv[1])):
        print(json.dumps(line))
