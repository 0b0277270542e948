"""Whether all that a load has published is in Kafka, and how long Kafka's partitions stood still meanwhile."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable

from harness.audit import Audit, audit_topics
from harness.broker import Broker
from harness.consumer import read_topic
from harness.load import Load
from harness.metrics import Metrics


def settle(broker: Broker, load: Load, timeout: float) -> Metrics:
    """End the load, and wait until all is delivered. No publisher has lost its connection by what befell Kafka."""
    load.finish(20)
    assert load.n_closed == 0, "an MQTT client lost its connection"
    return broker.health.wait_drained(timeout)


def check_once(audit: Audit, broker: Broker) -> None:
    """Each message is there, in order, and once; twice only where the plugin's log admits that it may be."""
    admitted = audit.repeated_ids > 0 and broker.admits_repeats()
    audit.check(repeated_ids=None if admitted else 0, repeated_payloads=0)


def check_arrived(
    broker: Broker, load: Load, bootstrap: str, topic: str, timeout: float = 30.0
) -> tuple[Audit, Metrics]:
    """Both, for a load of which all goes to one Kafka topic."""
    metrics = settle(broker, load, timeout)
    audit = audit_topics(bootstrap, topic, load.books)
    check_once(audit, broker)
    assert metrics.delivered == metrics.received == load.n_sent == audit.n_distinct
    return audit, metrics


def standstills(bootstrap: str, topics: Iterable[str]) -> list[float]:
    """The longest time without a record, in seconds, of each partition of topics that keep the time of appending."""
    times: dict[tuple[str, int], list[int]] = defaultdict(list)
    for topic in topics:
        for record in read_topic(bootstrap, topic):
            times[topic, record.partition].append(record.timestamp_ms)
    return [max(b - a for a, b in itertools.pairwise(t)) / 1000 for t in times.values()]
