"""The name of Kafka's host does not resolve, for a while."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from conftest import MakeBroker, MakeKafka
from harness.arrival import check_arrived
from harness.consumer import read_topic
from harness.load import Load, streams
from harness.world import World

_RATE = 200.0
_AT_ONCE = 2.0  # seconds within which messages are delivered once the name resolves


def test_name_that_does_not_resolve(
    make_kafka: MakeKafka,
    make_broker: MakeBroker,
    tmp_path: Path,
    seconds: Callable[[float, float], float],
    figure: Callable[[str], None],
) -> None:
    """The broker starts though nobody knows Kafka's name: it is as if Kafka were down, and the log tells why. When the
    name resolves, the messages are delivered. Then Kafka goes away, and its name with it; Kafka comes back, and
    delivery goes on when the name is known again. Kafka itself, too, tells clients to come by its name."""
    kafka = make_kafka()
    port = kafka.add_way(lambda port: f"kafka.test:{port}")
    kafka.start()
    # The time of appending, by the same clock as ours, tells when delivery went on.
    topic = kafka.new_topic(1, {"message.timestamp.type": "LogAppendTime"})
    world = World(tmp_path / "world")
    options = {"kafka_broker": f"kafka.test:{port}", "kafka_topic": topic, "spool_dir": str(tmp_path / "spool")}
    broker = make_broker(options, **world.around()).start()
    resolved = []
    with Load(broker.port, [*streams(2, "one", rate=_RATE / 4), *streams(1, "two", qos=2, rate=_RATE / 2)]) as load:
        broker.wait_log(r"Kafka: .*kafka\.test.*resolve", 10)
        time.sleep(seconds(2, 60))
        metrics = broker.health.scrape()
        assert metrics.delivered == 0
        assert broker.health.status("/healthz") == 423
        assert broker.health.status("/readyz") == broker.health.status("/livez") == 200

        resolved.append(time.time())
        world.resolve(kafka="127.0.0.1")
        broker.health.wait_for(lambda m: m.in_spool < _RATE / 5, 10, "messages are delivered")

        kafka.kill()
        world.resolve()
        time.sleep(1)
        kafka.start()
        time.sleep(seconds(2, 60))
        resolved.append(time.time())
        world.resolve(kafka="127.0.0.1")
        broker.health.wait_for(lambda m: m.in_spool < _RATE / 5, 10, "messages are delivered again")
        audit, _ = check_arrived(broker, load, kafka.bootstrap, topic)
    times = [record.timestamp_ms / 1000 for record in read_topic(kafka.bootstrap, topic)]
    waits = [min(t for t in times if t > moment) - moment for moment in resolved]
    figure(f"{audit}; first record {waits[0]:.2f} s and {waits[1]:.2f} s after the name resolved")
    assert max(waits) <= _AT_ONCE
