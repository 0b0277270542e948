"""The files of a spool on disk, read and made without the plugin's help (docs/spool-format.md)."""

from __future__ import annotations

import hashlib
import os
import re
import struct
from dataclasses import dataclass, replace
from pathlib import Path

HEADER_LEN = 4096
_COPY_LEN = 128
_COPIES = (0, 2048)
_SEAL_AT = 1024
_SEAL_LEN = 64
_SLOT_LEN = 4096

_HEADER = struct.Struct("<8sII16sQQQQQ")
_SEAL = struct.Struct("<8sQQQQQ")
_RECORD = struct.Struct("<IIQQIIIHBB")


def _table() -> list[int]:
    table = []
    for n in range(256):
        for _ in range(8):
            n = n >> 1 ^ (0x82F63B78 if n & 1 else 0)
        table.append(n)
    return table


_CRC = _table()


def crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _CRC[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


@dataclass(frozen=True)
class Header:
    uuid: bytes
    file: int
    run_seq: int
    salt: int
    created_ms: int
    size: int
    version: int = 1

    @classmethod
    def read(cls, path: Path) -> Header:
        with path.open("rb") as file:
            data = file.read(_COPY_LEN)
        magic, version, _flags, uuid, number, run_seq, salt, created_ms, size = _HEADER.unpack_from(data)
        assert magic == b"MQKSPOOL" and crc32c(data[:124]) == int.from_bytes(data[124:], "little"), path
        return cls(uuid, number, run_seq, salt, created_ms, size, version)

    def encode(self) -> bytes:
        """One copy."""
        data = _HEADER.pack(
            b"MQKSPOOL", self.version, 0, self.uuid, self.file, self.run_seq, self.salt, self.created_ms, self.size
        ).ljust(124, b"\0")
        return data + crc32c(data).to_bytes(4, "little")


@dataclass(frozen=True)
class Seal:
    first_seq: int
    last_seq: int
    n_records: int
    first_ms: int
    end: int

    @classmethod
    def read(cls, path: Path) -> Seal | None:
        """None: not sealed."""
        with path.open("rb") as file:
            file.seek(_SEAL_AT)
            data = file.read(_SEAL_LEN)
        if not any(data):
            return None
        magic, *fields = _SEAL.unpack_from(data)
        assert magic == b"MQKSSEAL", path
        return cls(*fields)

    def encode(self, salt: int) -> bytes:
        data = _SEAL.pack(b"MQKSSEAL", self.first_seq, self.last_seq, self.n_records, self.first_ms, self.end).ljust(
            60, b"\0"
        )
        return data + crc32c(salt.to_bytes(8, "little") + data).to_bytes(4, "little")


def segments(directory: Path) -> list[Path]:
    """Its segments, by number."""
    return sorted(path for path in directory.iterdir() if re.fullmatch(r"[0-9a-f]{16}\.seg", path.name))


def _seqs(path: Path) -> list[int]:
    data, at, found = path.read_bytes(), HEADER_LEN, []
    while at + _RECORD.size <= len(data):
        length, _, seq, *_ = _RECORD.unpack_from(data, at)
        if length == 0:
            break
        found.append(seq)
        at += (length + 7) & ~7
    return found


def records_in(path: Path) -> int:
    """How many records stand in a sound segment."""
    return len(_seqs(path))


def sha(directory: Path) -> dict[str, str]:
    """The files below a directory, each with a digest of its content."""
    return {
        str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in directory.rglob("*")
        if path.is_file()
    }


def set_version(path: Path, version: int) -> None:
    """Make a segment, or STATE, one of another version, sound in all else."""
    data = bytearray(path.read_bytes())
    if path.name == "STATE":
        places = [(at, _SLOT_LEN) for at in (0, _SLOT_LEN) if data[at : at + 8] == b"MQKSTATE"]
    else:
        places = [(at, _COPY_LEN) for at in _COPIES]
    assert places
    for at, length in places:
        struct.pack_into("<I", data, at + 8, version)
        struct.pack_into("<I", data, at + length - 4, crc32c(bytes(data[at : at + length - 4])))
    path.write_bytes(data)


def add_sealed(directory: Path, n: int, n_records: int, size: int = 8 * 1024 * 1024) -> int:
    """Add n segments to a spool, sealed, each said to hold n_records, which stand in no block of the disk: their
    numbers follow those that are there. Returns that of the last one. Nothing may have the directory open."""
    files = segments(directory)
    header = Header.read(files[-1])
    seals = [seal for seal in map(Seal.read, files) if seal is not None]
    assert seals, "no segment is sealed"
    unsealed = [seq for path in files if Seal.read(path) is None for seq in _seqs(path)]
    seq = max([seal.last_seq for seal in seals] + unsealed) + 1
    for k in range(1, n + 1):
        one = replace(header, file=header.file + k, salt=int.from_bytes(os.urandom(8), "little"), size=size)
        seal = Seal(seq, seq + n_records - 1, n_records, seals[-1].first_ms, size)
        seq += n_records
        path = directory / f"{one.file:016x}.seg"
        with path.open("xb") as file:
            os.fchmod(file.fileno(), 0o600)
            for at in _COPIES:
                file.seek(at)
                file.write(one.encode())
            file.seek(_SEAL_AT)
            file.write(seal.encode(one.salt))
            file.truncate(size)
    return seq - 1
