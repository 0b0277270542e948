"""Reading from Kafka, and judging what is there against the publishers' books."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from harness.publisher import Ledger, parse_payload
from harness.wait import wait_until


@dataclass(frozen=True)
class Record:
    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes
    headers: tuple[tuple[str, bytes | None], ...]
    timestamp_ms: int
    arrived: float = 0.0  # when a Follower saw it, seconds since the epoch

    @property
    def mm_id(self) -> str:
        """The id header; there is exactly one."""
        found = [value for name, value in self.headers if name == "mm-id"]
        assert len(found) == 1 and found[0] is not None, f"not one mm-id: {self.headers}"
        return found[0].decode()

    @property
    def seq(self) -> int:
        """The number at the end of the id."""
        return int(self.mm_id.rpartition("-")[2])

    @property
    def fields(self) -> dict[str, str]:
        """The JSON value."""
        return json.loads(self.value)

    @property
    def mqtt_topic(self) -> str:
        return self.fields["Topic"]

    @property
    def payload(self) -> bytes:
        return base64.b64decode(self.fields["Content"], validate=True)


def _record(message: Message, arrived: float = 0.0) -> Record:
    problem = message.error()
    if problem is not None:
        raise KafkaException(problem)
    topic, partition, offset, value = message.topic(), message.partition(), message.offset(), message.value()
    assert topic is not None and partition is not None and offset is not None and value is not None
    raw = message.headers() or []
    assert isinstance(raw, list)
    headers = tuple((name, data.encode() if isinstance(data, str) else data) for name, data in raw)
    _kind, timestamp_ms = message.timestamp()
    return Record(topic, partition, offset, message.key(), value, headers, timestamp_ms, arrived)


def numbers_by_topic(records: Iterable[Record]) -> dict[str, list[int]]:
    """The messages of each MQTT topic in order, of which each is a number; repeats by id left out."""
    found: dict[str, list[int]] = defaultdict(list)
    seen: set[str] = set()
    for record in records:
        if record.mm_id not in seen:
            seen.add(record.mm_id)
            found[record.mqtt_topic].append(int(record.payload))
    return dict(found)


def make_consumer(bootstrap: str) -> Consumer:
    return Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "integration-tests",  # never joined: partitions are assigned by hand
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "check.crcs": True,
            "reconnect.backoff.ms": 50,
            "reconnect.backoff.max.ms": 200,
            "fetch.error.backoff.ms": 50,
            "log_level": 0,
        }
    )


def end_offsets(consumer: Consumer, topic: str) -> dict[int, int]:
    """The end of each partition that holds anything."""
    described = consumer.list_topics(topic, timeout=10).topics[topic]
    if described.error is not None:
        raise KafkaException(described.error)
    ends = {}
    for partition in described.partitions:
        low, high = _watermarks(consumer, TopicPartition(topic, partition))
        if high > low:
            ends[partition] = high
    return ends


def _watermarks(consumer: Consumer, partition: TopicPartition) -> tuple[int, int]:
    """The ends of a partition; a leader that was just elected cannot tell them at once."""

    def ask() -> tuple[int, int] | None:
        try:
            return consumer.get_watermark_offsets(partition, timeout=10)
        except KafkaException as problem:
            if problem.args[0].code() not in _ELECTING:
                raise
            return None

    return wait_until(ask, 20, f"the leader of {partition} tells its ends")


def count_records(bootstrap: str, topic: str) -> int:
    """Records in a topic; they are numbered without gaps, as nobody uses transactions here."""
    consumer = make_consumer(bootstrap)
    try:
        return sum(end_offsets(consumer, topic).values())
    finally:
        consumer.close()


def read_topic(bootstrap: str, topic: str, timeout: float = 60.0) -> list[Record]:
    """All records that are in the topic now, partition by partition in their order."""
    consumer = make_consumer(bootstrap)
    try:
        ends = end_offsets(consumer, topic)
        records: list[Record] = []
        left = set(ends)
        consumer.assign([TopicPartition(topic, partition, 0) for partition in ends])
        deadline = time.monotonic() + timeout
        while left:
            assert time.monotonic() < deadline, f"{topic} was not read within {timeout:g} s: {len(records)} of {ends}"
            for message in consumer.consume(1000, 0.2):
                record = _record(message)
                if record.offset < ends[record.partition]:
                    records.append(record)
                if record.offset >= ends[record.partition] - 1:
                    left.discard(record.partition)
        return sorted(records, key=lambda r: (r.partition, r.offset))
    finally:
        consumer.close()


def wait_records(bootstrap: str, topic: str, n: int, timeout: float = 30.0) -> list[Record]:
    """Wait until the topic holds at least n records, and read them all."""
    consumer = make_consumer(bootstrap)
    last = [0]

    def enough() -> bool:
        try:
            last[0] = sum(end_offsets(consumer, topic).values())
        except KafkaException as problem:
            if problem.args[0].code() not in _AWAY:
                raise
        return last[0] >= n

    try:
        wait_until(enough, timeout, lambda: f"{topic} holds {n} records, it has {last[0]}")
    finally:
        consumer.close()
    return read_topic(bootstrap, topic)


_ELECTING = (
    KafkaError.OFFSET_NOT_AVAILABLE,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.NOT_LEADER_FOR_PARTITION,
)
_AWAY = (
    KafkaError._TRANSPORT,
    KafkaError._TIMED_OUT,
    KafkaError._ALL_BROKERS_DOWN,
    KafkaError._PARTITION_EOF,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
)


class Follower:
    """Reads a topic as it grows, through outages, and notes when each record came."""

    def __init__(self, bootstrap: str, topic: str, partitions: Iterable[int] = (0,)) -> None:
        self._consumer = make_consumer(bootstrap)
        self._consumer.assign([TopicPartition(topic, partition, 0) for partition in partitions])
        self._lock = threading.Lock()
        self._records: list[Record] = []
        self._problem: BaseException | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="follower", daemon=True)
        self._thread.start()

    def __enter__(self) -> Follower:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(10)
        self._consumer.close()

    def records(self) -> list[Record]:
        """What has come so far, in the order of arrival."""
        if self._problem is not None:
            raise self._problem
        with self._lock:
            return list(self._records)

    def wait_for(self, n: int, timeout: float) -> list[Record]:
        wait_until(lambda: len(self.records()) >= n, timeout, lambda: f"{n} records, {len(self.records())} came")
        return self.records()

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                message = self._consumer.poll(0.1)
                if message is None:
                    continue
                problem = message.error()
                if problem is not None and problem.code() in _AWAY:
                    continue
                record = _record(message, time.time())
                with self._lock:
                    self._records.append(record)
        except BaseException as problem:  # handed to records()
            self._problem = problem


@dataclass
class Delivery:
    """What became of the messages of a ledger."""

    n_records: int = 0
    missing: list[tuple[str, int]] = field(default_factory=list)  # acknowledged, not in Kafka
    unknown: list[Record] = field(default_factory=list)  # in Kafka, never sent
    repeated_ids: int = 0  # records more than distinct mm-ids: duplicates that the plugin made
    repeated_payloads: int = 0  # of those with distinct ids: a client sent again what had been stored
    inversions: list[str] = field(default_factory=list)  # within an MQTT topic

    def __str__(self) -> str:
        return (
            f"{self.n_records} records, {len(self.missing)} missing, {len(self.unknown)} unknown, "
            f"{self.repeated_ids} repeated by id, {self.repeated_payloads} by payload, "
            f"{len(self.inversions)} inversions"
        )


def judge(ledger: Ledger, records: Iterable[Record]) -> Delivery:
    """Compare books and records. Repeats, by id or by payload, do not count for the order: the first one does."""
    result = Delivery()
    sent = ledger.sent()
    ids: Counter[str] = Counter()
    seen: set[tuple[str, int]] = set()
    last: dict[str, int] = defaultdict(lambda: -1)
    partitions: dict[str, int] = {}
    for record in records:
        result.n_records += 1
        ids[record.mm_id] += 1
        if ids[record.mm_id] > 1:
            result.repeated_ids += 1
            continue
        try:
            topic, seq, _client = parse_payload(record.payload)
        except (ValueError, KeyError):
            result.unknown.append(record)
            continue
        message = sent.get((topic, seq))
        if message is None or message.payload != record.payload or record.mqtt_topic != topic:
            result.unknown.append(record)
            continue
        if partitions.setdefault(topic, record.partition) != record.partition:
            result.inversions.append(f"{topic} is in partitions {partitions[topic]} and {record.partition}")
        if message.id in seen:
            result.repeated_payloads += 1
            continue
        seen.add(message.id)
        if seq < last[topic]:
            result.inversions.append(f"{topic}: {seq} after {last[topic]}")
        last[topic] = max(last[topic], seq)
    result.missing = sorted(set(ledger.acked()) - seen)
    return result


def check_delivery(
    ledger: Ledger, records: Iterable[Record], *, repeated_ids: int | None = 0, repeated_payloads: int | None = None
) -> Delivery:
    """acknowledged ⊆ consumed ⊆ sent, in order per MQTT topic, and no more repeats than allowed (None: any number)."""
    result = judge(ledger, records)
    assert not result.missing, f"acknowledged, but not in Kafka: {result.missing[:10]} ({result})"
    assert not result.unknown, f"in Kafka, but never sent: {result.unknown[:3]} ({result})"
    assert not result.inversions, f"out of order: {result.inversions[:10]} ({result})"
    if repeated_ids is not None:
        assert result.repeated_ids <= repeated_ids, f"more duplicates than allowed: {result}"
    if repeated_payloads is not None:
        assert result.repeated_payloads <= repeated_payloads, f"sent twice by a client: {result}"
    return result
