"""A Kafka topic that takes nothing for now: its messages wait in parked/, in order, and hold nobody up."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)

from conftest import MakeBroker, MakeKafka
from harness.audit import audit_topics
from harness.broker import Broker
from harness.consumer import read_topic
from harness.kafka import Cluster, Kafka, unique
from harness.load import Book, Load, streams
from harness.metrics import PREFIX
from harness.wait import wait_until

# At most so many messages of the blocked topic come within the moments that a SIGKILL makes forgotten.
_PARKED_TWICE = 400

_AUTHORIZER = {
    "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
    "allow.everyone.if.no.acl.found": "true",
    "super.users": "User:nobody-at-all",
}


class _Topics:
    """Kafka topics of which one takes nothing: it is not there, or nobody may write to it."""

    def __init__(self, kafka: Cluster, trouble: str) -> None:
        self.free = [kafka.new_topic(), kafka.new_topic()]
        self.blocked = unique("blocked")
        self._kafka = kafka
        self._trouble = trouble
        self._admin = AdminClient({"bootstrap.servers": kafka.bootstrap, "log_level": 0})
        if trouble == "forbidden":
            kafka.create_topic(self.blocked)
            everything = self._acl(AclBinding, AclOperation.ALL, AclPermissionType.ALLOW)
            no_write = self._acl(AclBinding, AclOperation.WRITE, AclPermissionType.DENY)
            for done in self._admin.create_acls([everything, no_write]).values():
                done.result(20)

    def _acl(self, kind: Any, operation: AclOperation, permission: AclPermissionType) -> Any:
        return kind(
            ResourceType.TOPIC, self.blocked, ResourcePatternType.LITERAL, "User:ANONYMOUS", "*", operation, permission
        )

    def mend(self) -> None:
        if self._trouble == "missing":
            self._kafka.create_topic(self.blocked)
        else:
            wanted = self._acl(AclBindingFilter, AclOperation.WRITE, AclPermissionType.DENY)
            self._admin.delete_acls([wanted])[wanted].result(20)


@pytest.fixture(scope="module")
def authorizing(tmp_path_factory: pytest.TempPathFactory) -> Iterable[Kafka]:
    """A Kafka in which rights can be taken away."""
    node = Kafka(tmp_path_factory.mktemp("authorizing-kafka"), _AUTHORIZER)
    try:
        node.start()
        yield node
    finally:
        node.close()


def _broker(make_broker: MakeBroker, kafka: Cluster, topics: _Topics, directory: Path, **more: str | int) -> Broker:
    return make_broker(
        [
            ("kafka_broker", kafka.bootstrap),
            ("kafka_topic", topics.free[0]),
            ("route", f"blocked/# {topics.blocked}"),
            ("route", f"other/# {topics.free[1]}"),
            ("spool_dir", directory),
            ("kafka_retry_interval", 1),
            ("rdkafka.topic.metadata.propagation.max.ms", 300),
            ("rdkafka.topic.metadata.refresh.interval.ms", 1000),
            *more.items(),
        ]
    )


def _of(load: Load, *prefixes: str) -> dict[str, Book]:
    return {topic: book for topic, book in load.books.items() if topic.startswith(prefixes)}


@pytest.mark.parametrize(("trouble", "workers"), [("missing", 1), ("missing", 3), ("forbidden", 2)])
def test_one_topic_waits_and_the_others_flow(
    authorizing: Kafka,
    make_broker: MakeBroker,
    tmp_path: Path,
    seconds: Callable[[float, float], float],
    figure: Callable[[str], None],
    trouble: str,
    workers: int,
) -> None:
    """One Kafka topic is missing, or forbidden: its messages wait in parked/, the others are delivered as fast as ever;
    the broker is killed and started again, and stopped in order and started again, and they still wait; when the topic
    takes messages they arrive in order with the ids that they had, and the spool is empty."""
    topics = _Topics(authorizing, trouble)
    directory = tmp_path / "spool"
    broker = _broker(make_broker, authorizing, topics, directory, kafka_workers=workers).start()
    parked = directory / "parked" / topics.blocked
    kinds = [*streams(2, "blocked", rate=200), *streams(2, "free", rate=200), *streams(2, "other", rate=200)]
    with Load(broker.port, kinds) as load:
        wait_until(lambda: any(parked.glob("*.seg")), 15, "messages are parked")

        end = time.monotonic() + seconds(1.5, 20)
        while time.monotonic() < end:
            n_others = sum(book.n_sent for book in _of(load, "free", "other").values())
            broker.health.wait_for(lambda m, n=n_others: m.delivered >= n, 3, "the others flow")  # type: ignore[misc]
            time.sleep(0.1)
        broker.health.wait_for(lambda m: m.get(PREFIX + "healthy") == 0, 5, "not healthy while messages are parked")
        broker.kill()
        broker.start()
        time.sleep(seconds(0.5, 5))
        broker.stop()
        broker.start()
        time.sleep(seconds(0.5, 5))
        load.finish(10)
        n_blocked = sum(book.n_sent for book in _of(load, "blocked").values())
        broker.health.wait_for(
            lambda m: m.in_spool == m.get(PREFIX + "parked_messages") >= n_blocked, 10, "the others are through"
        )
        metrics = broker.health.check_ledger_quiet()
        # Copied before they are finished: what was parked in the moment of the kill is there twice.
        assert n_blocked <= metrics.in_spool <= n_blocked + load.n_resent + _PARKED_TWICE
        broker.kill()
        broker.start()
        assert broker.health.check_ledger_quiet().in_spool == metrics.in_spool
    if trouble == "forbidden":
        assert read_topic(authorizing.bootstrap, topics.blocked) == []
    topics.mend()
    mended = time.monotonic()
    metrics = broker.health.wait_drained(20)
    took = time.monotonic() - mended
    audit = audit_topics(authorizing.bootstrap, topics.blocked, _of(load, "blocked"))
    others = audit_topics(authorizing.bootstrap, topics.free, _of(load, "free", "other"))
    figure(f"{n_blocked} waited, delivered {took:.1f} s after the topic was mended; parked: {audit}; others: {others}")
    audit.check(repeated_ids=_PARKED_TWICE)
    others.check(repeated_ids=None)
    assert audit.uuids == others.uuids, "the id is no longer the spool's"
    assert audit.repeated_payloads + others.repeated_payloads <= load.n_resent
    n_distinct, n_records = audit.n_distinct + others.n_distinct, audit.n_records + others.n_records
    assert n_distinct <= metrics.delivered <= n_records, metrics.ledger()
    # New messages go their usual way.
    with Load(broker.port, streams(1, "blocked/again", rate=200)) as load:
        time.sleep(0.3)
        load.finish(5)
    broker.health.wait_drained(5)
    assert not any(parked.glob("*.seg")) or all(path.stat().st_size for path in parked.glob("*.seg"))


def test_all_topics_alike_park_nothing(make_kafka: MakeKafka, make_broker: MakeBroker, tmp_path: Path) -> None:
    """Kafka is away: nothing is parked, all wait where they are."""
    kafka = make_kafka()
    kafka.start()
    topics = _Topics(kafka, "none")
    kafka.stop()
    broker = _broker(make_broker, kafka, topics, tmp_path / "spool").start()
    with Load(broker.port, [*streams(1, "blocked", rate=200), *streams(1, "other", rate=200)]) as load:
        time.sleep(2.5)
        load.finish(5)
    assert not list((tmp_path / "spool" / "parked").glob("*"))
    kafka.start()
    kafka.create_topic(topics.blocked)
    broker.health.wait_drained(20)
    audit_topics(kafka.bootstrap, [topics.blocked, topics.free[1]], load.books).check(repeated_payloads=0)
