"""MQTT 3.1.1 and 5 packets on a plain socket, for tests that need to see each of them."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

V311 = 4
V5 = 5

# Reason codes of MQTT 5 that the tests meet.
SUCCESS = 0x00
NO_SUBSCRIBERS = 0x10
FAILURE = 0x80
NOT_AUTHORIZED = 0x87
QUOTA_EXCEEDED = 0x97


class Type(IntEnum):
    CONNECT = 1
    CONNACK = 2
    PUBLISH = 3
    PUBACK = 4
    PUBREC = 5
    PUBREL = 6
    PUBCOMP = 7
    SUBSCRIBE = 8
    SUBACK = 9
    PINGREQ = 12
    PINGRESP = 13
    DISCONNECT = 14


@dataclass(frozen=True)
class Packet:
    type: Type
    flags: int
    body: bytes
    version: int

    @property
    def packet_id(self) -> int:
        """Of the acknowledgements."""
        return int.from_bytes(self.body[:2], "big")

    @property
    def reason(self) -> int:
        """Reason code; the protocol lets 0 be left out, and 3.1.1 has none."""
        at = {Type.CONNACK: 1, Type.DISCONNECT: 0}.get(self.type, 2)
        return self.body[at] if len(self.body) > at else SUCCESS


class Closed(Exception):
    """The broker has closed the connection."""


def _varint(n: int) -> bytes:
    out = bytearray()
    while True:
        n, digit = divmod(n, 128)
        out.append(digit | (0x80 if n else 0))
        if not n:
            return bytes(out)


def _string(data: bytes | str) -> bytes:
    raw = data.encode() if isinstance(data, str) else data
    return struct.pack("!H", len(raw)) + raw


def _packet(kind: Type, flags: int, body: bytes) -> bytes:
    return bytes([kind << 4 | flags]) + _varint(len(body)) + body


Will = tuple[str, bytes, int]  # topic, payload, QoS


def connect(
    client_id: str,
    version: int = V311,
    *,
    keepalive: int = 60,
    username: str | None = None,
    password: str | None = None,
    will: Will | None = None,
) -> bytes:
    """A clean session."""
    flags = 0x02 | (0x80 if username is not None else 0) | (0x40 if password is not None else 0)
    if will is not None:
        flags |= 0x04 | will[2] << 3
    no_properties = _varint(0) if version == V5 else b""
    body = _string("MQTT") + bytes([version, flags]) + struct.pack("!H", keepalive) + no_properties
    body += _string(client_id)
    if will is not None:
        body += no_properties + _string(will[0]) + _string(will[1])
    for text in (username, password):
        if text is not None:
            body += _string(text)
    return _packet(Type.CONNECT, 0, body)


def publish(
    topic: bytes | str,
    payload: bytes,
    qos: int = 0,
    packet_id: int = 0,
    version: int = V311,
    *,
    dup: bool = False,
    retain: bool = False,
    properties: bytes = b"",
) -> bytes:
    """properties: of MQTT 5, as made by the functions below."""
    body = _string(topic)
    if qos:
        body += struct.pack("!H", packet_id)
    if version == V5:
        body += _varint(len(properties)) + properties
    return _packet(Type.PUBLISH, (8 if dup else 0) | qos << 1 | (1 if retain else 0), body + payload)


def payload_format(utf8: bool) -> bytes:
    return bytes([0x01, utf8])


def content_type(text: str) -> bytes:
    return b"\x03" + _string(text)


def response_topic(text: str) -> bytes:
    return b"\x08" + _string(text)


def correlation_data(data: bytes) -> bytes:
    return b"\x09" + _string(data)


def user_property(name: str, value: str) -> bytes:
    return b"\x26" + _string(name) + _string(value)


def acknowledgement(kind: Type, packet_id: int) -> bytes:
    return _packet(kind, 2 if kind == Type.PUBREL else 0, struct.pack("!H", packet_id))


def disconnect() -> bytes:
    return _packet(Type.DISCONNECT, 0, b"")


class Reader:
    """Cuts a stream of bytes into packets."""

    def __init__(self, version: int) -> None:
        self._version = version
        self._buffer = bytearray()

    def feed(self, data: bytes) -> None:
        self._buffer += data

    def next(self) -> Packet | None:
        length = 0
        for at, digit in enumerate(self._buffer[1:5], start=1):
            length |= (digit & 0x7F) << 7 * (at - 1)
            if not digit & 0x80:
                end = at + 1 + length
                if len(self._buffer) < end:
                    return None
                first, body = self._buffer[0], bytes(self._buffer[at + 1 : end])
                del self._buffer[:end]
                return Packet(Type(first >> 4), first & 0x0F, body, self._version)
        return None


class Client:
    """One connection whose every packet the test sends and receives itself."""

    def __init__(
        self,
        port: int,
        client_id: str = "",
        version: int = V311,
        *,
        username: str | None = None,
        password: str | None = None,
        will: Will | None = None,
        timeout: float = 10.0,
    ) -> None:
        self.version = version
        self.timeout = timeout
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=timeout)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._reader = Reader(version)
        self._last_id = 0
        self.send(connect(client_id, version, username=username, password=password, will=will))
        self.connack = self.expect(Type.CONNACK)
        assert self.connack.reason == SUCCESS, f"the broker refuses the connection: {self.connack}"

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def send(self, data: bytes) -> None:
        try:
            self.socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError) as problem:
            raise Closed from problem

    def next_id(self) -> int:
        self._last_id = self._last_id % 65535 + 1
        return self._last_id

    def _readable(self, seconds: float) -> bool:
        # Not select(): it cannot wait for the descriptors above 1023 of a long run.
        poll = select.poll()
        poll.register(self.socket, select.POLLIN)
        return bool(poll.poll(seconds * 1000))

    def receive(self, timeout: float | None = None) -> Packet:
        """The next packet. Raises Closed; TimeoutError when nothing comes."""
        deadline = time.monotonic() + (self.timeout if timeout is None else timeout)
        while True:
            packet = self._reader.next()
            if packet is not None:
                return packet
            left = deadline - time.monotonic()
            if left <= 0 or not self._readable(left):
                raise TimeoutError("no packet came")
            try:
                data = self.socket.recv(65536)
            except ConnectionResetError:
                data = b""
            if not data:
                raise Closed
            self._reader.feed(data)

    def expect(self, kind: Type) -> Packet:
        packet = self.receive()
        assert packet.type == kind, f"expected {kind.name}, got {packet}"
        return packet

    def publish(
        self,
        topic: bytes | str,
        payload: bytes,
        qos: int = 0,
        *,
        dup: bool = False,
        retain: bool = False,
        properties: bytes = b"",
    ) -> Packet | None:
        """Publish and wait for the broker's answer: nothing for QoS 0, PUBACK for 1, PUBREC for 2 (whose handshake is
        then finished). Raises Closed when the connection is closed instead."""
        packet_id = self.next_id() if qos else 0
        self.send(
            publish(topic, payload, qos, packet_id, self.version, dup=dup, retain=retain, properties=properties)
        )
        if qos == 0:
            return None
        answer = self.expect(Type.PUBACK if qos == 1 else Type.PUBREC)
        assert answer.packet_id == packet_id
        if qos == 2 and answer.reason < FAILURE:
            self.send(acknowledgement(Type.PUBREL, packet_id))
            self.expect(Type.PUBCOMP)
        return answer

    def ping(self) -> float:
        """Seconds until the answer: the broker's thread has then handled all that was sent before."""
        begin = time.monotonic()
        self.send(_packet(Type.PINGREQ, 0, b""))
        self.expect(Type.PINGRESP)
        return time.monotonic() - begin

    def wait_closed(self, timeout: float | None = None) -> list[Packet]:
        """The packets that still came before the broker closed."""
        packets: list[Packet] = []
        try:
            while True:
                packets.append(self.receive(timeout))
        except Closed:
            return packets

    def subscribe(self, topic_filter: str, qos: int = 0) -> None:
        body = struct.pack("!H", self.next_id()) + (_varint(0) if self.version == V5 else b"")
        self.send(_packet(Type.SUBSCRIBE, 2, body + _string(topic_filter) + bytes([qos])))
        self.expect(Type.SUBACK)

    def close(self) -> None:
        """In order: with a DISCONNECT."""
        with contextlib.suppress(Closed, OSError):
            self.send(disconnect())
        self.socket.close()


def is_served(port: int) -> bool:
    """Does a broker accept clients on this port?"""
    try:
        Client(port, timeout=5).close()
    except (OSError, Closed):
        return False
    return True


def publish_all(port: int, messages: Sequence[tuple[bytes | str, bytes]], qos: int = 1, version: int = V311) -> None:
    """Publish these, each acknowledged before the next, by one client."""
    with Client(port, version=version) as client:
        for topic, payload in messages:
            answer = client.publish(topic, payload, qos)
            assert answer is None or answer.reason < FAILURE, answer
        client.ping()
