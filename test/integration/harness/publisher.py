"""Publishers that keep books: what was sent, what the broker acknowledged.

Each message has a number within its MQTT topic, and each topic has one publisher, so that a reader of Kafka can tell
what is missing, what came twice, and what came in the wrong order.
"""

from __future__ import annotations

import collections
import itertools
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from harness import mqtt
from harness.mqtt import Type
from harness.wait import wait_until


@dataclass(frozen=True)
class Message:
    """The payload is `topic seq client`, padded with dots."""

    topic: str
    seq: int
    client: str
    qos: int
    size: int = 0

    @property
    def id(self) -> tuple[str, int]:
        return self.topic, self.seq

    @property
    def payload(self) -> bytes:
        return f"{self.topic} {self.seq} {self.client} ".encode().ljust(self.size, b".")


def parse_payload(payload: bytes) -> tuple[str, int, str]:
    """topic, seq, client of a payload that was made here."""
    topic, seq, client = payload.rstrip(b". ").decode().split(" ")
    return topic, int(seq), client


class Ledger:
    """The publishers' books. Any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sent: dict[str, list[Message]] = {}
        self._acked: dict[tuple[str, int], float] = {}
        self._ended: dict[tuple[str, int], int] = {}

    def next(self, topic: str, client: str, qos: int, size: int = 0) -> Message:
        """Enter the next message of a topic as sent."""
        with self._lock:
            messages = self._sent.setdefault(topic, [])
            message = Message(topic, len(messages), client, qos, size)
            messages.append(message)
            return message

    def acknowledge(self, message: Message, reason: int = mqtt.SUCCESS) -> None:
        """A PUBACK or PUBREC has come. A reason code of 0x80 and above is the end of the message, but no promise."""
        with self._lock:
            if reason >= mqtt.FAILURE:
                self._ended[message.id] = reason
            else:
                self._acked[message.id] = time.time()

    @property
    def n_sent(self) -> int:
        with self._lock:
            return sum(len(messages) for messages in self._sent.values())

    @property
    def n_acked(self) -> int:
        with self._lock:
            return len(self._acked)

    def sent(self, qos: int | None = None) -> dict[tuple[str, int], Message]:
        with self._lock:
            return {m.id: m for messages in self._sent.values() for m in messages if qos is None or m.qos == qos}

    def acked(self) -> dict[tuple[str, int], float]:
        """With the time of the acknowledgement, seconds since the epoch."""
        with self._lock:
            return dict(self._acked)

    def ended(self) -> dict[tuple[str, int], int]:
        """Messages that the broker ended with a reason code of 0x80 and above, with the code."""
        with self._lock:
            return dict(self._ended)


class _Pace:
    """When the next message is due."""

    def __init__(self, rate: float | None) -> None:
        self._period = 1 / rate if rate else 0.0
        self._next = time.monotonic()

    def due_in(self) -> float:
        return self._next - time.monotonic()

    def advance(self) -> None:
        self._next += self._period


class ReliableClient:
    """A client of our own that behaves as a good MQTT client does: what is not acknowledged it keeps, and sends again,
    in order and with the DUP flag, after each reconnect.

    It publishes round robin on its topics: n_messages of them, or until finish() is called.
    """

    def __init__(
        self,
        port: int,
        name: str,
        topics: Sequence[str],
        ledger: Ledger,
        *,
        qos: int = 1,
        version: int = mqtt.V311,
        n_messages: int | None = None,
        rate: float | None = None,
        size: int = 100,
        window: int = 20,
        backoff: float = 0.1,
    ) -> None:
        self.n_connects = 0
        self.n_closed = 0  # by the broker
        self.n_resent = 0
        self.last_disconnect_reason: int | None = None  # of MQTT 5
        self._port = port
        self._name = name
        self._topics = itertools.cycle(topics)
        self._ledger = ledger
        self._qos = qos
        self._version = version
        self._left = n_messages
        self._pace = _Pace(rate)
        self._size = size
        self._window = window
        self._backoff = backoff
        self._pending: dict[int, Message] = {}  # by packet id, in the order of publishing
        self._releasing: set[int] = set()  # packet ids that wait for their PUBCOMP
        self._ids = itertools.cycle(range(1, 65536))
        self._stop = threading.Event()
        self._give_up = threading.Event()
        self._problem: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> ReliableClient:
        self._thread.start()
        return self

    @property
    def n_pending(self) -> int:
        return len(self._pending)

    @property
    def done(self) -> bool:
        """Everything was sent and answered."""
        return not self._thread.is_alive()

    def finish(self, timeout: float) -> None:
        """Publish no more than what was announced, and wait until all is acknowledged."""
        if self._left is None:
            self._stop.set()
        self._thread.join(timeout)
        alive = self._thread.is_alive()
        self.abandon()
        if self._problem is not None:
            raise self._problem
        assert not alive, f"{self._name}: {self.n_pending} messages not acknowledged within {timeout:g} s"

    def abandon(self) -> None:
        """Give up what is not acknowledged."""
        self._give_up.set()
        self._thread.join(20)

    def _run(self) -> None:
        try:
            while not self._finished():
                self._one_connection()
        except BaseException as problem:  # handed to finish()
            self._problem = problem

    def _no_more(self) -> bool:
        return self._stop.is_set() if self._left is None else self._left == 0

    def _finished(self) -> bool:
        return self._give_up.is_set() or (self._no_more() and not self._pending and not self._releasing)

    def _one_connection(self) -> None:
        try:
            client = mqtt.Client(self._port, self._name, self._version, timeout=10)
        except (OSError, mqtt.Closed):
            self._give_up.wait(self._backoff)
            return
        self.n_connects += 1
        try:
            self._resume(client)
            while not self._finished():
                self._send_new(client)
                self._receive(client)
            client.close()
        except (OSError, mqtt.Closed):
            self.n_closed += 1
            client.socket.close()
            self._give_up.wait(self._backoff)

    def _resume(self, client: mqtt.Client) -> None:
        self._releasing.clear()  # of the session that has ended
        for packet_id, message in self._pending.items():
            self.n_resent += 1
            self._send(client, packet_id, message, dup=True)

    def _send(self, client: mqtt.Client, packet_id: int, message: Message, *, dup: bool = False) -> None:
        client.send(mqtt.publish(message.topic, message.payload, message.qos, packet_id, self._version, dup=dup))

    def _send_new(self, client: mqtt.Client) -> None:
        while not self._no_more() and len(self._pending) + len(self._releasing) < self._window:
            if self._pace.due_in() > 0:
                return
            message = self._ledger.next(next(self._topics), self._name, self._qos, self._size)
            self._pace.advance()
            if self._left is not None:
                self._left -= 1
            packet_id = 0
            if self._qos:
                packet_id = next(i for i in self._ids if i not in self._pending and i not in self._releasing)
                self._pending[packet_id] = message
            self._send(client, packet_id, message)

    def _receive(self, client: mqtt.Client) -> None:
        """Take all packets that are there, or wait for one until the next message is due."""
        wait = min(0.05, max(0.0, self._pace.due_in()))
        if len(self._pending) + len(self._releasing) >= self._window or self._no_more():
            wait = 0.05
        while True:
            try:
                packet = client.receive(wait)
            except TimeoutError:
                return
            self._take(client, packet)
            wait = 0.0

    def _take(self, client: mqtt.Client, packet: mqtt.Packet) -> None:
        if packet.type in (Type.PUBACK, Type.PUBREC):
            message = self._pending.pop(packet.packet_id)
            self._ledger.acknowledge(message, packet.reason)
            if packet.type == Type.PUBREC and packet.reason < mqtt.FAILURE:
                self._releasing.add(packet.packet_id)
                client.send(mqtt.acknowledgement(Type.PUBREL, packet.packet_id))
        elif packet.type == Type.PUBCOMP:
            self._releasing.discard(packet.packet_id)
        elif packet.type == Type.DISCONNECT:
            self.last_disconnect_reason = packet.reason


class PahoLoad:
    """A steady load of paho clients, each with topics of its own, at `rate` messages a second over all of them."""

    def __init__(
        self,
        port: int,
        ledger: Ledger,
        *,
        rate: float,
        n_clients: int = 4,
        topics_per_client: int = 5,
        qos: int = 1,
        version: int = mqtt.V311,
        size: int = 100,
        prefix: str = "load",
    ) -> None:
        self._ledger = ledger
        self._rate = rate
        self._qos = qos
        self._size = size
        self._clients = [_PahoClient(port, f"{prefix}-{n}", ledger, version) for n in range(n_clients)]
        topics = [f"{prefix}/{n}/{t}" for t in range(topics_per_client) for n in range(n_clients)]
        self._turns = itertools.cycle((topic, self._clients[i % n_clients]) for i, topic in enumerate(topics))
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=prefix, daemon=True)

    def start(self) -> PahoLoad:
        for client in self._clients:
            client.connect()
        self._thread.start()
        return self

    @property
    def n_reconnects(self) -> int:
        return sum(client.n_connects - 1 for client in self._clients)

    def stop(self) -> None:
        """Publish no more."""
        self._stop.set()
        self._thread.join(10)

    def finish(self, timeout: float) -> None:
        """Publish no more, wait until all is acknowledged, disconnect."""
        self.stop()

        def all_acked() -> bool:
            for client in self._clients:
                client.reconcile()
            return not any(client.outstanding for client in self._clients)

        wait_until(
            all_acked, timeout, lambda: f"all is acknowledged, {[len(c.outstanding) for c in self._clients]} left"
        )
        for client in self._clients:
            client.disconnect()

    def _run(self) -> None:
        pace = _Pace(self._rate)
        while not self._stop.is_set():
            late = pace.due_in()
            if late > 0:
                for client in self._clients:
                    client.reconcile()
                self._stop.wait(late)
                continue
            topic, client = next(self._turns)
            client.publish(topic, self._qos, self._size)
            pace.advance()


class _PahoClient:
    def __init__(self, port: int, name: str, ledger: Ledger, version: int) -> None:
        self.n_connects = 0
        self.outstanding: dict[int, Message] = {}  # by paho's message id
        self._port = port
        self._name = name
        self._ledger = ledger
        # paho's thread only appends here: entering the books from its callback, which runs under paho's locks, would
        # invite a deadlock with publish().
        self._answers: collections.deque[tuple[int, int]] = collections.deque()
        self._connected = threading.Event()
        self._client = paho.Client(CallbackAPIVersion.VERSION2, client_id=name, protocol=MQTTProtocolVersion(version))
        self._client.on_connect = self._on_connect
        self._client.on_publish = self._on_publish

    def connect(self) -> None:
        self._client.connect("127.0.0.1", self._port)
        self._client.loop_start()
        assert self._connected.wait(10), f"{self._name} is not connected"

    def publish(self, topic: str, qos: int, size: int) -> None:
        message = self._ledger.next(topic, self._name, qos, size)
        info = self._client.publish(topic, message.payload, qos)
        if qos:
            self.outstanding[info.mid] = message

    def reconcile(self) -> None:
        """Enter the answers into the books. By the thread that publishes."""
        while self._answers:
            mid, reason = self._answers.popleft()
            if mid in self.outstanding:
                self._ledger.acknowledge(self.outstanding.pop(mid), reason)

    def disconnect(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def _on_connect(self, *_: object) -> None:
        self.n_connects += 1
        self._connected.set()

    def _on_publish(self, _client: object, _data: object, mid: int, reason: object, _properties: object) -> None:
        self._answers.append((mid, getattr(reason, "value", mqtt.SUCCESS)))


def flood(port: int, topic: str, n: int, size: int = 100) -> None:
    """n QoS 0 messages as fast as the socket takes them; returns when the broker has handled them all."""
    with mqtt.Client(port, timeout=60) as client:
        client.send(b"".join(mqtt.publish(topic, str(i).encode().ljust(size, b".")) for i in range(n)))
        client.ping()
