"""SIGTERM: everything that can be delivered is, and it takes 10 s at most."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Callable

import pytest

from conftest import MakeBroker, MakeKafka
from harness import mqtt
from harness.consumer import check_delivery, read_topic
from harness.kafka import Cluster
from harness.publisher import Ledger, ReliableClient

_LONGEST = 10.0


@pytest.mark.parametrize("workers", [1, 4])
def test_what_was_acknowledged_is_delivered(
    kafka: Cluster, make_broker: MakeBroker, figure: Callable[[str], None], workers: int
) -> None:
    """SIGTERM in the middle of a load, Kafka being well: what was acknowledged is in Kafka when the broker has ended,
    and the log says that nothing was left."""
    topic = kafka.new_topic(2)
    broker = make_broker({"kafka_broker": kafka.bootstrap, "kafka_topic": topic, "kafka_workers": workers}).start()
    ledger = Ledger()
    load = ReliableClient(broker.port, "c", [f"t/{n}" for n in range(20)], ledger, window=20).start()
    time.sleep(1)
    stopped = broker.stop()
    load.abandon()
    records = read_topic(kafka.bootstrap, topic)
    delivery = check_delivery(ledger, records, repeated_payloads=0)
    figure(f"stop took {stopped.seconds:.2f} s, {ledger.n_acked} acknowledged, {delivery}")
    assert stopped.seconds <= _LONGEST
    found = re.search(r"(\d+) messages received, (\d+) delivered.* (\d+) are still in the spool", broker.logs())
    assert found, broker.logs()
    assert int(found[1]) == int(found[2]) == len(records)
    assert int(found[3]) == 0


@pytest.mark.parametrize(("trouble", "workers"), [("killed", 1), ("killed", 8), ("frozen", 4), ("never there", 2)])
def test_stop_without_kafka(
    make_kafka: MakeKafka, make_broker: MakeBroker, figure: Callable[[str], None], trouble: str, workers: int
) -> None:
    """Kafka killed, frozen or never seen, and messages in the spool: the broker ends in order within 10 s, and the log
    says how many messages go with its memory."""
    kafka = make_kafka()
    topic = "t"
    if trouble != "never there":
        kafka.start()
        kafka.create_topic(topic)
    broker = make_broker({"kafka_broker": kafka.bootstrap, "kafka_topic": topic, "kafka_workers": workers}).start()
    if trouble != "never there":
        mqtt.publish_all(broker.port, [(f"t/{n}", b"first") for n in range(50)])
        broker.health.wait_drained(10)
    if trouble == "killed":
        kafka.kill()
    elif trouble == "frozen":
        kafka.pause()
    ledger = Ledger()
    ReliableClient(broker.port, "c", [f"t/{n}" for n in range(50)], ledger, n_messages=5000).start().finish(20)
    broker.child.signal(signal.SIGTERM)
    stopped = broker.stop()  # a second SIGTERM changes nothing
    figure(f"stop took {stopped.seconds:.2f} s")
    assert stopped.seconds <= _LONGEST
    assert re.search(r"\b5000 are still in the spool in memory", broker.logs()), broker.logs()
    if trouble == "frozen":
        kafka.resume()


def test_stop_while_parked(kafka: Cluster, make_broker: MakeBroker) -> None:
    """The topic is missing and the worker waits for its retry timer: the stop does not wait for it."""
    broker = make_broker(
        {
            "kafka_broker": kafka.bootstrap,
            "kafka_topic": "missing",
            "kafka_retry_interval": 3600,
            "rdkafka.topic.metadata.propagation.max.ms": 500,
        }
    ).start()
    mqtt.publish_all(broker.port, [("a", b"x")])
    broker.wait_log("refuses messages", 15)
    assert broker.stop().seconds <= _LONGEST
