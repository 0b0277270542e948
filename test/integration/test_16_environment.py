"""Options from the environment."""

from __future__ import annotations

from conftest import MakeBroker
from harness import mqtt, ports
from harness.consumer import read_topic, wait_records
from harness.kafka import Cluster


def test_environment_is_the_fall_back(kafka: Cluster, make_broker: MakeBroker) -> None:
    """Without any plugin_opt line the Go program's variables configure the plugin."""
    topic = kafka.new_topic()
    host, _, port = kafka.bootstrap.rpartition(":")
    broker = make_broker(
        env={
            "KAFKA_BROKER": host,
            "KAFKA_PORT": port,
            "KAFKA_TOPIC": topic,
            "KAFKA_WORKERS": "2",
            "MQTT_TOPIC": "carried/#",
            "HEALTH_PORT": str(ports.free_port()),
            "LOG_LEVEL": "debug",
            "JSON_FIELD_NAMES": "topic,content",
        }
    ).start()
    mqtt.publish_all(broker.port, [("left", b"x"), ("carried/a", b"hello")])
    (record,) = wait_records(kafka.bootstrap, topic, 1)
    assert record.value == b'{"topic":"carried/a","content":"aGVsbG8="}'
    assert len(broker.health.scrape().labelled("metamorphosis_kafka_up", "worker")) == 2


def test_configuration_wins(kafka: Cluster, make_broker: MakeBroker) -> None:
    """plugin_opt_kafka_topic counts, KAFKA_TOPIC does not; an empty variable is none."""
    topic, other = kafka.new_topic(), kafka.new_topic()
    broker = make_broker(
        {"kafka_broker": kafka.bootstrap, "kafka_topic": topic},
        env={"KAFKA_TOPIC": other, "KAFKA_WORKERS": ""},
    ).start()
    mqtt.publish_all(broker.port, [("a", b"x")])
    wait_records(kafka.bootstrap, topic, 1)
    assert read_topic(kafka.bootstrap, other) == []
    assert len(broker.health.scrape().labelled("metamorphosis_kafka_up", "worker")) == 1
