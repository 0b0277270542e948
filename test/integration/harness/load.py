"""A publisher that is fast, keeps what is not acknowledged, and keeps books that are small.

One thread serves all connections. Each connection has MQTT topics of its own and sends its messages in order; what was
not acknowledged when a connection ended it sends again, in order and with the DUP flag, on the next one. So on its way
into Kafka the messages of an MQTT topic can only be numbered 0, 1, 2, ... with repeats in between: audit.py relies on
that. The payload is that of publisher.Message.
"""

from __future__ import annotations

import select
import socket
import struct
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from harness import mqtt
from harness.mqtt import Type

_BUFFER = 64 * 1024
_CONNECT_TIMEOUT = 5.0


@dataclass(frozen=True)
class Stream:
    """One connection."""

    name: str
    topics: Sequence[str]
    qos: int = 1
    version: int = mqtt.V311
    rate: float | None = None  # messages a second; None: as fast as they are acknowledged
    window: int = 20
    size: int = 100


@dataclass
class Book:
    """Of one MQTT topic."""

    client: str
    qos: int
    size: int
    n_sent: int = 0
    acked: bytearray = field(default_factory=bytearray)  # [n] is 1 once message n was acknowledged

    @property
    def n_acked(self) -> int:
        return self.acked.count(1)


def streams(n: int, prefix: str, n_topics: int = 4, **settings: object) -> list[Stream]:
    """n of a kind; the settings are Stream's."""
    return [
        Stream(f"{prefix}-{k}", [f"{prefix}/{k}/{t}" for t in range(n_topics)], **settings)  # type: ignore[arg-type]
        for k in range(n)
    ]


class Load:
    """Publishes on all streams until finish() or abandon(). The counters may be read by any thread."""

    def __init__(self, port: int, kinds: Sequence[Stream], *, backoff: float = 0.02) -> None:
        self.books: dict[str, Book] = {}
        self._connections = [_Connection(port, stream, self.books, backoff) for stream in kinds]
        self._stop = threading.Event()
        self._give_up = threading.Event()
        self._problem: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="load", daemon=True)

    def start(self) -> Load:
        self._thread.start()
        return self

    def __enter__(self) -> Load:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.abandon()

    @property
    def n_sent(self) -> int:
        return sum(c.n_sent for c in self._connections)

    @property
    def n_acked(self) -> int:
        return sum(c.n_acked for c in self._connections)

    @property
    def n_pending(self) -> int:
        return sum(len(c.pending) for c in self._connections)

    @property
    def n_resent(self) -> int:
        return sum(c.n_resent for c in self._connections)

    @property
    def n_closed(self) -> int:
        """Connections that were up and were closed by the broker."""
        return sum(c.n_closed for c in self._connections)

    def acked_at(self) -> dict[str, float]:
        """By stream: when its last acknowledgement came, time.monotonic(); 0: none yet."""
        return {c.stream.name: c.acked_at for c in self._connections if c.stream.qos}

    def alive(self) -> None:
        """Fails when the thread has."""
        if self._problem is not None:
            raise self._problem

    def finish(self, timeout: float) -> None:
        """Begin no new message; wait until all is acknowledged."""
        self._stop.set()
        self._thread.join(timeout)
        late = self._thread.is_alive()
        self.abandon()
        left = {c.stream.name: len(c.pending) for c in self._connections if c.pending}
        assert not late, f"not acknowledged within {timeout:g} s: {left}"

    def abandon(self) -> None:
        """Give up what is not acknowledged."""
        self._give_up.set()
        self._thread.join(20)
        self.alive()

    def _run(self) -> None:
        try:
            poller = select.epoll()
            for c in self._connections:
                c.poller = poller
            by_fd: dict[int, _Connection] = {}
            while not self._give_up.is_set() and not (self._stop.is_set() and all(c.idle for c in self._connections)):
                now = time.monotonic()
                wait = 0.05
                for c in self._connections:
                    wait = min(wait, c.turn(now, not self._stop.is_set(), by_fd))
                for fd, events in poller.poll(max(wait, 0.0005)):
                    if fd in by_fd:
                        by_fd[fd].on_event(events)
            for c in self._connections:
                c.close()
            poller.close()
        except BaseException as problem:  # handed to alive()
            self._problem = problem


class _Connection:
    def __init__(self, port: int, stream: Stream, books: dict[str, Book], backoff: float) -> None:
        self.stream = stream
        self.poller: select.epoll
        self.pending: dict[int, tuple[int, int]] = {}  # packet id: index of the topic, number; in the order of sending
        self.n_sent = self.n_acked = self.n_resent = self.n_closed = 0
        self.acked_at = 0.0
        self._port = port
        self._backoff = backoff
        self._socket: socket.socket | None = None
        self._up = False
        self._since = 0.0  # when the connection was begun, or lost
        self._releasing: set[int] = set()
        self._books = []
        self._heads = []
        for topic in stream.topics:
            assert topic not in books, f"two publishers of {topic}"
            self._books.append(books.setdefault(topic, Book(stream.name, stream.qos, stream.size)))
            # The changing parts of the packet, packet id and payload, come last.
            packet = mqtt.publish(topic, b"." * stream.size, stream.qos, 0, stream.version)
            tail = (2 if stream.qos else 0) + (1 if stream.version == mqtt.V5 else 0) + stream.size
            self._heads.append(packet[: len(packet) - tail])
        self._next_topic = 0
        self._last_id = 0
        self._out = bytearray()
        self._in = bytearray()
        self._wants_write = False
        self._due = 0.0
        self._to_resend: list[int] = []

    @property
    def idle(self) -> bool:
        """Nothing is left to be sent or answered."""
        return not self.pending and not self._releasing and not self._out

    def turn(self, now: float, new: bool, by_fd: dict[int, _Connection]) -> float:
        """Do what is due. Returns the seconds until more is."""
        if self._socket is None:
            if now < self._since + self._backoff:
                return self._since + self._backoff - now
            if not new and self.idle:
                return 1.0
            self._open(now, by_fd)
            return 0.05
        if not self._up:
            if now > self._since + _CONNECT_TIMEOUT:
                self._lost()
            return 0.05
        wait = self._fill(now, new)
        self._flush()
        return wait

    def _open(self, now: float, by_fd: dict[int, _Connection]) -> None:
        self._since = now
        s = socket.socket()
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        s.setblocking(False)
        error = s.connect_ex(("127.0.0.1", self._port))
        if error not in (0, 115):  # EINPROGRESS
            s.close()
            return
        self._socket = s
        self._out = bytearray(mqtt.connect(self.stream.name, self.stream.version, keepalive=0))
        self._in.clear()
        by_fd[s.fileno()] = self
        self.poller.register(s.fileno(), select.EPOLLIN | select.EPOLLOUT)
        self._wants_write = True

    def _lost(self) -> None:
        assert self._socket is not None
        self.poller.unregister(self._socket.fileno())
        self._socket.close()
        self._socket = None
        self.n_closed += self._up
        self._up = False
        self._since = time.monotonic()
        self._out.clear()
        self._releasing.clear()  # of the session that has ended

    def close(self) -> None:
        if self._socket is not None:
            if self._up and not self._out:
                try:
                    self._socket.send(mqtt.disconnect())
                except OSError:
                    pass
            self._socket.close()
            self._socket = None

    def _put(self, packet_id: int, topic: int, number: int, dup: bool) -> None:
        head, book, stream = self._heads[topic], self._books[topic], self.stream
        if dup:
            self._out.append(head[0] | 8)
            self._out += head[1:]
        else:
            self._out += head
        if stream.qos:
            self._out += packet_id.to_bytes(2, "big")
        if stream.version == mqtt.V5:
            self._out.append(0)
        self._out += f"{stream.topics[topic]} {number} {book.client} ".encode().ljust(book.size, b".")

    def _fill(self, now: float, new: bool) -> float:
        stream = self.stream
        while self._to_resend and len(self._out) < _BUFFER:
            packet_id = self._to_resend.pop()
            topic, number = self.pending[packet_id]
            self._put(packet_id, topic, number, True)
            self.n_resent += 1
        period = 1 / stream.rate if stream.rate else 0.0
        if self._due < now - 0.2:
            self._due = now  # a connection that was away does not catch up
        while new and not self._to_resend and len(self._out) < _BUFFER:
            if period and self._due > now:
                return max(self._due - now, 0.001)
            if stream.qos and len(self.pending) + len(self._releasing) >= stream.window:
                return 0.05
            topic = self._next_topic
            self._next_topic = (topic + 1) % len(self._books)
            book = self._books[topic]
            number = book.n_sent
            book.n_sent += 1
            packet_id = 0
            if stream.qos:
                book.acked.append(0)
                packet_id = self._new_id()
                self.pending[packet_id] = (topic, number)
            self._put(packet_id, topic, number, False)
            self.n_sent += 1
            self._due += period
        return 0.05

    def _new_id(self) -> int:
        while True:
            self._last_id = self._last_id % 65535 + 1
            if self._last_id not in self.pending and self._last_id not in self._releasing:
                return self._last_id

    def _flush(self) -> None:
        if self._out and self._socket is not None and not self._wants_write:
            self._write()

    def _write(self) -> None:
        assert self._socket is not None
        try:
            n = self._socket.send(self._out)
        except BlockingIOError:
            n = 0
        except OSError:
            self._lost()
            return
        del self._out[:n]
        wants = bool(self._out)
        if wants != self._wants_write:
            self._wants_write = wants
            self.poller.modify(self._socket.fileno(), select.EPOLLIN | (select.EPOLLOUT if wants else 0))

    def on_event(self, events: int) -> None:
        if self._socket is not None and events & (select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR):
            self._read()
        if self._socket is not None and events & select.EPOLLOUT:
            self._write()

    def _read(self) -> None:
        assert self._socket is not None
        try:
            data = self._socket.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._lost()
            return
        self._in += data
        buffer, at = self._in, 0
        while len(buffer) - at >= 2:
            assert buffer[at + 1] < 128, "no packet that a publisher gets is that long"
            end = at + 2 + buffer[at + 1]
            if end > len(buffer):
                break
            self._take(buffer[at] >> 4, buffer[at + 2 : end])
            if self._socket is None:
                return
            at = end
        del buffer[:at]

    def _take(self, kind: int, body: bytearray) -> None:
        if kind == Type.PUBACK or kind == Type.PUBREC:
            packet_id, reason = struct.unpack_from("!H", body)[0], body[2] if len(body) > 2 else 0
            assert reason < mqtt.FAILURE, f"{self.stream.name}: reason code {reason:#x}"
            found = self.pending.pop(packet_id, None)
            if found is not None:
                topic, number = found
                self._books[topic].acked[number] = 1
                self.n_acked += 1
                self.acked_at = time.monotonic()
            if kind == Type.PUBREC:
                self._releasing.add(packet_id)
                self._out += mqtt.acknowledgement(Type.PUBREL, packet_id)
        elif kind == Type.PUBCOMP:
            self._releasing.discard(struct.unpack_from("!H", body)[0])
        elif kind == Type.CONNACK:
            if body[1] != 0:
                self._lost()
                return
            self._up = True
            self._to_resend = list(reversed(self.pending))
