"""SIGHUP."""

from __future__ import annotations

import time
from pathlib import Path

from conftest import MakeBroker
from harness import mqtt
from harness.consumer import check_delivery, read_topic
from harness.kafka import Cluster
from harness.publisher import Ledger, PahoLoad


def _reason(port: int, topic: str) -> int:
    with mqtt.Client(port, version=mqtt.V5) as client:
        answer = client.publish(topic, b"x", 1)
        assert answer is not None
        return answer.reason


def test_reload_keeps_the_acl_and_the_stream(kafka: Cluster, make_broker: MakeBroker, tmp_path: Path) -> None:
    """SIGHUP under load, many times: no message is lost, nobody is disconnected, and the broker's ACL file is still in
    force (Mosquitto 2.0 forgets it when a plugin answers a reload wrongly); what it denies is not carried. A changed
    ACL file counts."""
    acl = tmp_path / "acl"
    acl.write_text("topic readwrite load/#\ntopic readwrite open/#\n")
    topic = kafka.new_topic()
    broker = make_broker(
        {"kafka_broker": kafka.bootstrap, "kafka_topic": topic}, config_lines=[f"acl_file {acl}"]
    ).start()
    assert _reason(broker.port, "open/a") < mqtt.FAILURE
    assert _reason(broker.port, "closed/a") == mqtt.NOT_AUTHORIZED

    ledger = Ledger()
    load = PahoLoad(broker.port, ledger, rate=1000).start()
    for _ in range(20):
        time.sleep(0.05)
        broker.reload()
    broker.wait_log("metamorphosis: reload", count=5)
    load.finish(10)
    assert load.n_reconnects == 0
    assert _reason(broker.port, "open/a") < mqtt.FAILURE
    assert _reason(broker.port, "closed/a") == mqtt.NOT_AUTHORIZED

    acl.write_text("topic readwrite closed/#\n")
    n_reloads = broker.logs().count("metamorphosis: reload")
    broker.reload()
    broker.wait_log("metamorphosis: reload", count=n_reloads + 1)
    assert _reason(broker.port, "closed/b") < mqtt.FAILURE
    assert _reason(broker.port, "open/b") == mqtt.NOT_AUTHORIZED

    broker.health.wait_drained(10)
    records = read_topic(kafka.bootstrap, topic)
    others = [r.mqtt_topic for r in records if not r.mqtt_topic.startswith("load/")]
    assert others == ["open/a", "open/a", "closed/b"]
    check_delivery(ledger, [r for r in records if r.mqtt_topic.startswith("load/")], repeated_payloads=0)
