"""The configuration of deploy/k8s works: a message goes through, and the probes are answered."""

from __future__ import annotations

import contextlib
import socket
import subprocess
from pathlib import Path

from conftest import MakeBroker
from harness import mqtt
from harness.broker import plugin_file
from harness.consumer import wait_records
from harness.kafka import Cluster
from harness.wait import wait_until

_CONFIG = Path(__file__).resolve().parents[2] / "deploy" / "k8s" / "base" / "mosquitto.conf"


def test_base_configuration(kafka: Cluster, make_broker: MakeBroker, tmp_path: Path) -> None:
    """The base's mosquitto.conf, with the paths and the addresses of this test: a client with the right password gets a
    message into Kafka, one with another or without is not let in, and the spool lies in the volume."""
    topic = kafka.new_topic()
    broker = make_broker({})
    root = tmp_path / "mosquitto"
    (root / "data").mkdir(parents=True)
    passwords = root / "secrets" / "mqtt" / "passwords"
    passwords.parent.mkdir(parents=True)
    subprocess.run(["mosquitto_passwd", "-b", "-c", passwords, "plant", "right"], check=True)
    text = _CONFIG.read_text()
    for old, new in (
        ("listener 1883", f"listener {broker.port} 127.0.0.1"),
        ("plugin /usr/lib/mosquitto_metamorphosis.so", f"plugin {plugin_file()}"),
        ("/mosquitto/", f"{root}/"),
        ("kafka_broker kafka-bootstrap:9092", f"kafka_broker {kafka.bootstrap}"),
        ("kafka_topic mqtt\n", f"kafka_topic {topic}\n"),
        ("health_port 8080", f"health_port {broker.health_port}"),
        ("health_address all", "health_address 127.0.0.1"),
    ):
        assert old in text, old
        text = text.replace(old, new)
    broker.config.write_text(text + "user root\n")
    broker.launch()

    def connect() -> mqtt.Client | None:
        with contextlib.suppress(OSError):  # the listener comes after the plugin
            return mqtt.Client(broker.port, username="plant", password="right")
        assert broker.running, broker.logs()
        return None

    with wait_until(connect, 20, lambda: f"the broker serves\n{broker.logs()}") as client:
        client.publish("plant/a", b"x", 1)
    for username, password in (("plant", "wrong"), (None, None)):
        with socket.create_connection(("127.0.0.1", broker.port), timeout=10) as stranger:
            stranger.sendall(mqtt.connect("stranger", username=username, password=password))
            assert stranger.recv(4)[3] == 5  # CONNACK: not authorized
    (record,) = wait_records(kafka.bootstrap, topic, 1)
    assert (record.mqtt_topic, record.payload) == ("plant/a", b"x")
    assert broker.health.status("/livez") == broker.health.status("/readyz") == 200
    assert list((root / "data" / "spool").glob("*.seg"))
