"""Reading millions of records from Kafka, and judging them against the books of load.py.

Within an MQTT topic the first occurrences of messages are numbered 0, 1, 2, ... There are two kinds of repeats, and
each is told from a loss or a wrong order exactly: a record with an mm-id that was there before is one that the plugin
delivered twice; a new mm-id with an old number is a message that its publisher sent twice.
"""

from __future__ import annotations

import base64
import bisect
import time
from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field

from confluent_kafka import Consumer, KafkaException, TopicPartition

from harness.consumer import end_offsets, make_consumer
from harness.load import Book
from harness.publisher import parse_payload


@dataclass
class _Topic:
    partition: int
    seqs: array[int] = field(default_factory=lambda: array("Q"))  # of the spool, in the order of first occurrences
    numbers: array[int] = field(default_factory=lambda: array("L"))  # of the messages of seqs
    next_number: int = 0


class Audit:
    """Feed it all records of a Kafka topic, partition by partition in their order, then check()."""

    def __init__(self, books: Mapping[str, Book]) -> None:
        self.n_records = 0
        self.repeated_ids = 0
        self.repeated_payloads = 0
        self.uuids: set[str] = set()
        self.problems: list[str] = []
        self._books = books
        self._topics: dict[str, _Topic] = {}

    def __str__(self) -> str:
        return f"{self.n_records} records, {self.repeated_ids} repeated by id, {self.repeated_payloads} by payload"

    @property
    def n_distinct(self) -> int:
        """Distinct mm-ids."""
        return self.n_records - self.repeated_ids

    def numbers(self, mqtt_topic: str) -> list[int]:
        """The messages of an MQTT topic that came, in order, those sent twice by the publisher twice."""
        return list(self._topics[mqtt_topic].numbers) if mqtt_topic in self._topics else []

    def _problem(self, text: str) -> None:
        if len(self.problems) < 20:
            self.problems.append(text)

    def feed(self, partition: int, key: bytes, value: bytes, mm_id: str) -> None:
        self.n_records += 1
        parts = value.split(b'"')  # {"Topic":"...","Content":"..."}
        mqtt_topic, content = parts[3].decode(), base64.b64decode(parts[7], validate=True)
        try:
            topic, number, client = parse_payload(content)
        except ValueError:
            self._problem(f"{mm_id}: a payload of somebody else: {content[:80]!r}")
            return
        book = self._books.get(topic)
        if (
            book is None
            or (topic, client, len(content)) != (mqtt_topic, book.client, book.size)
            or key.decode() != topic
            or number >= book.n_sent
        ):
            self._problem(f"{mm_id}: never sent: {key!r} {mqtt_topic} {content[:80]!r}")
            return
        uuid, _, digits = mm_id.rpartition("-")
        self.uuids.add(uuid)
        self._place(topic, book, partition, int(digits), number)

    def _place(self, topic: str, book: Book, partition: int, seq: int, number: int) -> None:
        state = self._topics.setdefault(topic, _Topic(partition))
        if state.partition != partition:
            self._problem(f"{topic} is in the partitions {state.partition} and {partition}")
        if state.seqs and seq <= state.seqs[-1]:
            at = bisect.bisect_left(state.seqs, seq)
            if state.seqs[at] != seq:
                self._problem(f"{topic}: record {seq} behind {state.seqs[-1]}")
            elif state.numbers[at] != number:
                self._problem(f"{topic}: record {seq} holds message {number}, and held {state.numbers[at]} before")
            else:
                self.repeated_ids += 1
            return
        state.seqs.append(seq)
        state.numbers.append(number)
        if number < state.next_number:
            self.repeated_payloads += 1
            return
        if number > state.next_number and book.qos:
            self._problem(f"{topic}: message {number} where {state.next_number} was due")
        state.next_number = number + 1

    def missing(self) -> list[tuple[str, int]]:
        """Acknowledged, and not in Kafka."""
        found = []
        for topic, book in self._books.items():
            if book.qos:
                came = set(self.numbers(topic))
                found += [(topic, n) for n in range(book.n_sent) if book.acked[n] and n not in came]
        return found

    def check(
        self, *, repeated_ids: int | None = 0, repeated_payloads: int | None = None, complete: bool = True
    ) -> None:
        """Every acknowledged message is there (complete: every message that was sent with QoS 1 or 2), in order, by one
        spool, and no more repeats than allowed (None: any number)."""
        missing = self.missing()
        assert not missing, f"{len(missing)} acknowledged, but not in Kafka: {missing[:10]} ({self})"
        assert not self.problems, f"{self.problems} ({self})"
        assert len(self.uuids) <= 1, f"more than one spool: {self.uuids}"
        if complete:
            for topic, book in self._books.items():
                n = self._topics[topic].next_number if topic in self._topics else 0
                assert not book.qos or n == book.n_sent, f"{topic}: {n} of {book.n_sent} messages ({self})"
        if repeated_ids is not None:
            assert self.repeated_ids <= repeated_ids, f"more repeats than {repeated_ids}: {self}"
        if repeated_payloads is not None:
            assert self.repeated_payloads <= repeated_payloads, f"more sent twice than {repeated_payloads}: {self}"


def audit_topics(
    bootstrap: str, kafka_topics: str | list[str], books: Mapping[str, Book], timeout: float = 60.0
) -> Audit:
    """Read all that is in these topics now. Each MQTT topic is in one of them."""
    audit = Audit(books)
    consumer = make_consumer(bootstrap)
    try:
        for n, topic in enumerate([kafka_topics] if isinstance(kafka_topics, str) else kafka_topics):
            _read(consumer, topic, audit, n * 10_000, timeout)
    finally:
        consumer.close()
    return audit


def _read(consumer: Consumer, topic: str, audit: Audit, first_partition: int, timeout: float) -> None:
    """first_partition: added to the numbers of the partitions, so that those of two topics differ."""
    ends = end_offsets(consumer, topic)
    left = set(ends)
    consumer.assign([TopicPartition(topic, partition, 0) for partition in ends])
    deadline = time.monotonic() + timeout
    while left:
        assert time.monotonic() < deadline, f"{topic} was not read within {timeout:g} s: {audit} of {ends}"
        for message in consumer.consume(5000, 0.2):
            problem, partition, offset = message.error(), message.partition(), message.offset()
            if problem is not None:
                raise KafkaException(problem)
            assert partition is not None and offset is not None
            if offset < ends[partition]:
                _feed(audit, message, first_partition + partition)
            if offset >= ends[partition] - 1:
                left.discard(partition)
    consumer.unassign()


def _feed(audit: Audit, message: object, partition: int) -> None:
    ids = [value for name, value in message.headers() if name == "mm-id"]  # type: ignore[attr-defined]
    assert len(ids) == 1, f"not one mm-id: {ids}"
    audit.feed(partition, message.key(), message.value(), ids[0].decode())  # type: ignore[attr-defined]
