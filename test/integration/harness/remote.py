"""In the Go program's place: the other broker, what the program was told, and what has to come of it."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness import ports
from harness.broker import Broker
from harness.certificates import Authority
from harness.consumer import Record, check_delivery, count_records, read_topic
from harness.kafka import Cluster
from harness.publisher import Ledger
from harness.wait import wait_until

# The user that the image runs as. (A broker or a tool that is another Debian's mounts that one's
# /usr first: scripts/matrix.sh.)
UID = 1883
_RIGHTS = ("--inh-caps", "+sys_admin", "--ambient-caps", "+sys_admin") if "MM_TEST_MOSQUITTO" in os.environ else ()
BECOME = ("setpriv", "--reuid", str(UID), "--regid", str(UID), "--clear-groups", *_RIGHTS)
_TEST_MESSAGE = ("test", b"Just a test")


@dataclass
class Remote:
    """A broker with TLS that asks for a client's certificate, and a plain port for the publishers of the tests. It keeps
    sessions over its end in order."""

    broker: Broker
    tls_port: int
    directory: Path
    authority: Authority

    @property
    def port(self) -> int:
        return self.broker.port

    def save_each_change(self) -> None:
        """From its next start on: its sessions outlive a kill, too. It is slow then."""
        config = self.broker.config
        config.write_text(f"autosave_interval 1\nautosave_on_changes true\n{config.read_text()}")

    def be_another(self) -> None:
        """From its next start on: its certificate is one of its authority, but of another host."""
        self.authority.issue("server", names=["elsewhere.example"])

    def certificates(self, place: Path | None = None) -> Path:
        """A directory with ca.crt, client.crt and client.key, of the image's user."""
        place = place or self.directory / "certs"
        place.mkdir(exist_ok=True)
        client = self.authority.issue("client", common_name="metamorphosis")
        for source, name in ((self.authority.file, "ca.crt"), (client.certificate, "client.crt"), (client.key, "client.key")):
            shutil.copy(source, place / name)
            os.chown(place / name, UID, UID)
        return place

    def env(self, kafka: Cluster, topic: str, mqtt_topic: str = "plant/#", certs: str = "/certs") -> dict[str, str]:
        """All that the Go program was given."""
        host, _, port = kafka.bootstrap.rpartition(":")
        return {
            "MQTT_BROKER": "localhost",
            "MQTT_PORT": str(self.tls_port),
            "MQTT_TOPIC": mqtt_topic,
            "ROOT_CA": f"{certs}/ca.crt",
            "MQTT_CLIENT_CERT": f"{certs}/client.crt",
            "MQTT_CLIENT_KEY": f"{certs}/client.key",
            "KAFKA_BROKER": host,
            "KAFKA_PORT": port,
            "KAFKA_TOPIC": topic,
        }

    def wait_subscribed(self, mqtt_topic: str = "plant/#", times: int = 1) -> None:
        """It has the subscription so often, the last one where there are several."""
        last = re.split("[,;]", mqtt_topic)[-1]
        self.broker.wait_log(f" 1 {re.escape(last)}$", 30, count=times)


def start_remote(directory: Path, make_broker: Callable[..., Broker]) -> Remote:
    """make_broker: the fixture."""
    authority = Authority(directory, "ca")
    server = authority.issue("server", names=["localhost", "127.0.0.1"])
    tls_port = ports.free_port()
    broker = make_broker(
        plugin=False,
        config_lines=[
            "persistence true",
            f"persistence_location {directory}/",
            "max_queued_messages 0",
            *(f"log_type {name}" for name in ("error", "warning", "notice", "information", "subscribe")),
        ],
        config_tail=[
            f"listener {tls_port} 127.0.0.1",
            f"cafile {authority.file}",
            f"certfile {server.certificate}",
            f"keyfile {server.key}",
            "require_certificate true",
        ],
    )
    broker.start()
    return Remote(broker, tls_port, directory, authority)


def carried(records: Sequence[Record]) -> list[tuple[str, bytes]]:
    """Topics and payloads, without the test messages, of which there has to be one."""
    found = [(record.mqtt_topic, record.payload) for record in records]
    assert _TEST_MESSAGE in found
    return [pair for pair in found if pair != _TEST_MESSAGE]


def data_records(records: Sequence[Record]) -> list[Record]:
    """Without the test messages, which have no id."""
    return [record for record in records if record.key is not None and (record.mqtt_topic, record.payload) != _TEST_MESSAGE]


def wait_complete(kafka: Cluster, topic: str, ledger: Ledger, logs: Callable[[], str], timeout: float = 60) -> None:
    """Everything that was acknowledged is in Kafka, in order. A resumed session repeats what was on its way."""

    def complete() -> bool:
        if count_records(kafka.bootstrap, topic) < ledger.n_acked:
            return False
        came = {record.payload for record in data_records(read_topic(kafka.bootstrap, topic))}
        sent = ledger.sent()
        return all(sent[message].payload in came for message in ledger.acked())

    wait_until(complete, timeout, lambda: f"{ledger.n_acked} messages are in Kafka\n{logs()[-3000:]}", 0.5)
    check_delivery(ledger, data_records(read_topic(kafka.bootstrap, topic)), repeated_ids=10_000)
