"""Ten routes, of which one or three lead to Kafka topics that take nothing: the others are as fast as ever."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from confluent_kafka import TopicPartition

from conftest import MakeBroker, long_form
from harness.arrival import check_once, settle, standstills
from harness.audit import audit_topics
from harness.consumer import make_consumer
from harness.kafka import unique
from harness.load import Load, Stream
from harness.metrics import PREFIX
from harness.secure import SecureKafka

_ROUTES = 10
_RATE = 1600.0  # of all routes together, messages a second
_WORKERS = 2

# Kind of trouble, topics that have it, spool, and whether each Kafka topic has a route of its own or one template makes
# them all. Of each kind the short form has the first.
_FORBIDDEN = [(1, "memory", "named"), (3, "disk", "made"), (1, "disk", "named"), (3, "memory", "made")]
_MISSING = [(3, "disk", "made"), (1, "memory", "named"), (1, "disk", "made"), (3, "memory", "named")]


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureKafka]:
    """A Kafka in which alice may do what she was allowed."""
    node = SecureKafka(tmp_path_factory.mktemp("secured"), acls=True)
    try:
        node.start()
        yield node
    finally:
        node.close()


class _Ten:
    """Ten Kafka topics, a broker with routes to each, and ten publishers. bad: those that will make trouble."""

    def __init__(
        self, kafka: SecureKafka, n_bad: int, make_broker: MakeBroker, spool_dir: Path | None, routes: str
    ) -> None:
        self.kafka = kafka
        prefix = unique("ten")
        self.topics = [f"{prefix}-r{n}" for n in range(_ROUTES)]
        self.bad, self.good = self.topics[:n_bad], self.topics[n_bad:]
        options: list[tuple[str, str | int]] = [
            ("kafka_broker", kafka.address("sasl")),
            ("rdkafka.security.protocol", "sasl_plaintext"),
            ("rdkafka.sasl.mechanisms", "PLAIN"),
            ("rdkafka.sasl.username", "alice"),
            ("rdkafka.sasl.password", kafka.users["alice"]),
            ("rdkafka.topic.metadata.propagation.max.ms", 300),
            ("rdkafka.topic.metadata.refresh.interval.ms", 1000),
            ("kafka_topic", self.good[0]),
            ("kafka_workers", _WORKERS),
            ("kafka_retry_interval", 1),
        ]
        if routes == "named":
            options += [("route", f"r{n}/# {topic}") for n, topic in enumerate(self.topics)]
        else:
            options += [("route", f"+/# {prefix}-${{topic[0]}}"), ("kafka_topic_allow", f"{prefix}-*")]
        if spool_dir is not None:
            options.append(("spool_dir", str(spool_dir)))
        self.broker = make_broker(options)
        self._consumer = make_consumer(kafka.bootstrap)

    def make(self, topics: list[str]) -> None:
        """Make Kafka topics that tell when each record was appended."""
        for topic in topics:
            self.kafka.create_topic(topic, 1, {"message.timestamp.type": "LogAppendTime"})

    def publish(self) -> Load:
        """Start broker and publishers."""
        self.broker.start()
        kinds = [
            Stream(f"r{n}", [f"r{n}/{t}" for t in range(3)], qos=1 + n % 2, rate=_RATE / _ROUTES)
            for n in range(_ROUTES)
        ]
        return Load(self.broker.port, kinds)

    def rate(self, seconds: float) -> float:
        """Records a second that come into the good Kafka topics from now on."""
        begin, before = time.monotonic(), self._n_good()
        time.sleep(seconds)
        after = self._n_good()
        return (after - before) / (time.monotonic() - begin)

    def _n_good(self) -> int:
        return sum(self._consumer.get_watermark_offsets(TopicPartition(topic, 0), timeout=10)[1] for topic in self.good)

    def wait_parked(self, timeout: float) -> None:
        self.broker.health.wait_for(lambda m: m.get(PREFIX + "parked_messages") > 0, timeout, "messages are parked")

    def wait_unparked(self, timeout: float) -> None:
        self.broker.health.wait_for(lambda m: m.get(PREFIX + "parked_messages") == 0, timeout, "nothing is parked")

    def check(self, load: Load) -> str:
        """All is in Kafka, in order, each in its topic."""
        settle(self.broker, load, 60)
        texts = []
        for name, numbers in (("bad", range(len(self.bad))), ("good", range(len(self.bad), _ROUTES))):
            books = {t: book for t, book in load.books.items() if int(t[1 : t.index("/")]) in numbers}
            audit = audit_topics(self.kafka.bootstrap, self.topics[numbers.start : numbers.stop], books)
            check_once(audit, self.broker)
            texts.append(f"{name}: {audit}")
        self._consumer.close()
        still = max(standstills(self.kafka.bootstrap, self.good))
        return f"{'; '.join(texts)}; the others stood still for {still:.1f} s at most"


def _check_rates(with_trouble: list[float], without: list[float], n_good: int) -> str:
    """Each list has a rate for each round. What is published is the same at all times, so the median round tells."""
    ratio = statistics.median(a / b for a, b in zip(with_trouble, without, strict=True))
    due = _RATE * n_good / _ROUTES
    text = (
        f"{n_good} routes at {statistics.median(with_trouble):.0f} msg/s beside the trouble and at "
        f"{statistics.median(without):.0f} without, median of {len(without)} ratios {ratio:.3f}"
    )
    assert ratio >= 0.95, text
    assert statistics.median(with_trouble) >= 0.9 * due, f"{text}: published are {due:.0f} msg/s"
    return text


@pytest.mark.parametrize(("n_bad", "spool", "routes"), _FORBIDDEN if long_form() else _FORBIDDEN[:1])
def test_forbidden(
    secured: SecureKafka,
    make_broker: MakeBroker,
    tmp_path: Path,
    seconds: Callable[[float, float], float],
    figure: Callable[[str], None],
    n_bad: int,
    spool: str,
    routes: str,
) -> None:
    """The right to write to some of ten topics is taken away and given back, again and again, under load. The rate of
    the others is measured from the moment of the loss, and just before: the median ratio is at least 0.95. With the
    right, what was parked arrives, all of it in order."""
    ten = _Ten(secured, n_bad, make_broker, tmp_path / "spool" if spool == "disk" else None, routes)
    ten.make(ten.topics)
    for topic in ten.topics:
        secured.allow("alice", "WRITE", topic)
    beside, without = [], []
    with ten.publish() as load:
        time.sleep(1)
        for _ in range(int(seconds(3, 15))):
            without.append(ten.rate(seconds(1.5, 3)))
            for topic in ten.bad:
                secured.revoke("alice", "WRITE", topic)
            beside.append(ten.rate(seconds(1.5, 3)))
            ten.wait_parked(5)
            for topic in ten.bad:
                secured.allow("alice", "WRITE", topic)
            ten.wait_unparked(20)
        text = _check_rates(beside, without, len(ten.good))
        assert ten.broker.wait_log("TOPIC_AUTHORIZATION_FAILED")
        figure(f"{n_bad} of 10 forbidden, {spool}: {text}; {ten.check(load)}")


@pytest.mark.parametrize(("n_bad", "spool", "routes"), _MISSING if long_form() else _MISSING[:1])
def test_missing(
    secured: SecureKafka,
    make_broker: MakeBroker,
    tmp_path: Path,
    seconds: Callable[[float, float], float],
    figure: Callable[[str], None],
    n_bad: int,
    spool: str,
    routes: str,
) -> None:
    """Some of ten topics do not exist; they are made while messages are published. Before that the others have the rate
    that they have afterwards, and what was parked arrives in order."""
    ten = _Ten(secured, n_bad, make_broker, tmp_path / "spool" if spool == "disk" else None, routes)
    ten.make(ten.good)
    for topic in ten.topics:
        secured.allow("alice", "WRITE", topic)
    n_rounds, length = int(seconds(3, 15)), seconds(1.5, 3)
    with ten.publish() as load:
        ten.wait_parked(10)
        beside = [ten.rate(length) for _ in range(n_rounds)]
        ten.make(ten.bad)
        ten.wait_unparked(30)
        without = [ten.rate(length) for _ in range(n_rounds)]
        text = _check_rates(beside, without, len(ten.good))
        assert ten.broker.wait_log("UNKNOWN_TOPIC")
        figure(f"{n_bad} of 10 missing, {spool}: {text}; {ten.check(load)}")
