"""The Go program's test message: at start and after an outage."""

from __future__ import annotations

from collections import Counter

from conftest import MakeBroker, MakeKafka
from harness import mqtt
from harness.consumer import Record, count_records, read_topic, wait_records
from harness.kafka import Cluster
from harness.wait import stays_true


def _texts(records: list[Record]) -> Counter[tuple[str, bytes]]:
    return Counter((record.mqtt_topic, record.payload) for record in records)


_DATA_TEST = ("test", b"Just a test")
_START_TEST = ("test", b"Internal test to see if kafka is alive at startup")


def test_none_by_default(kafka: Cluster, make_broker: MakeBroker) -> None:
    """Without kafka_test_message nothing but the MQTT messages is written."""
    topic = kafka.new_topic()
    broker = make_broker({"kafka_broker": kafka.bootstrap, "kafka_topic": topic}).start()
    mqtt.publish_all(broker.port, [("a", b"x")])
    wait_records(kafka.bootstrap, topic, 1)
    stays_true(lambda: count_records(kafka.bootstrap, topic) == 1, 1.0, "a record more than was published")


def test_each_worker_writes_one_at_start_and_after_an_outage(make_kafka: MakeKafka, make_broker: MakeBroker) -> None:
    """kafka_test_message: each worker writes `Just a test` with the MQTT topic `test` on kafka_topic when it starts,
    and once more when Kafka is back after an outage, whatever the number of attempts between. They are not in the
    ledger: nobody published them."""
    kafka = make_kafka()
    kafka.start()
    topic = kafka.new_topic()
    broker = make_broker(
        {
            "kafka_broker": kafka.bootstrap,
            "kafka_topic": topic,
            "kafka_test_message": "true",
            "kafka_workers": 3,
            "kafka_retry_interval": 1,
        }
    ).start()
    assert _texts(wait_records(kafka.bootstrap, topic, 3)) == {_DATA_TEST: 3}

    kafka.kill()
    broker.health.wait_for(lambda m: m.total("metamorphosis_kafka_up") == 0, 10, "Kafka is seen to be away")
    kafka.start()
    assert _texts(wait_records(kafka.bootstrap, topic, 6)) == {_DATA_TEST: 6}
    mqtt.publish_all(broker.port, [("a", b"x")])
    wait_records(kafka.bootstrap, topic, 7)
    stays_true(lambda: count_records(kafka.bootstrap, topic) == 7, 2.0, "more than one test message a worker")
    assert _texts(read_topic(kafka.bootstrap, topic)) == {_DATA_TEST: 6, ("a", b"x"): 1}
    metrics = broker.health.wait_drained(5)
    assert metrics.received == metrics.delivered == 1


def test_another_topic_gets_one_at_start(make_kafka: MakeKafka, make_broker: MakeBroker) -> None:
    """kafka_test_topic: the message of the Go program's newer releases, once, to that topic, whatever the number of
    workers and outages; nothing in the data topic."""
    kafka = make_kafka()
    kafka.start()
    topic, test_topic = kafka.new_topic(), kafka.new_topic()
    broker = make_broker(
        {
            "kafka_broker": kafka.bootstrap,
            "kafka_topic": topic,
            "kafka_test_message": "true",
            "kafka_test_topic": test_topic,
            "kafka_workers": 3,
        }
    ).start()
    assert _texts(wait_records(kafka.bootstrap, test_topic, 1)) == {_START_TEST: 1}

    kafka.kill()
    broker.health.wait_for(lambda m: m.total("metamorphosis_kafka_up") == 0, 10, "Kafka is seen to be away")
    kafka.start()
    mqtt.publish_all(broker.port, [("a", b"x")])
    assert _texts(wait_records(kafka.bootstrap, topic, 1)) == {("a", b"x"): 1}
    stays_true(lambda: count_records(kafka.bootstrap, test_topic) == 1, 1.0, "a second test message")
