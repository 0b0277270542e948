"""docker/entrypoint.sh in the Go program's place, with a real broker, the plugin and a real Kafka: the short form of the
image's own tests (scripts/image-test.sh), which needs no image."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from conftest import MakeBroker
from harness import mqtt, ports
from harness.broker import mosquitto_binary, plugin_file, preloaded
from harness.consumer import read_topic, wait_records
from harness.kafka import Cluster
from harness.metrics import Health
from harness.processes import Child
from harness.publisher import Ledger, ReliableClient
from harness.remote import BECOME, UID, Remote, carried, start_remote, wait_complete
from harness.tool import tool_binary
from harness.wait import wait_until

_SCRIPT = Path(__file__).resolve().parents[2] / "docker" / "entrypoint.sh"


class _DropIn:
    """What the image starts, as its user, on a directory in /mosquitto's place, which outlives its runs."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.data = root / "mosquitto" / "data"
        self.certs = root / "certs"
        self.env: dict[str, str] = {}
        self.health = Health(ports.free_port())
        self._output = root / "output"
        self._child: Child | None = None
        for directory in (self.data, root / "mosquitto" / "config", root / "mosquitto" / "log", root / "bin", self.certs):
            directory.mkdir(parents=True)
        for file in (_SCRIPT, plugin_file(), tool_binary()):
            shutil.copy(file, root / "bin")
        # A sanitizer's library for the broker alone; it looks for leaks in other tests.
        preload = f"LD_PRELOAD='{preloaded()}' ASAN_OPTIONS=detect_leaks=0 " if preloaded() else ""
        broker = root / "bin" / "mosquitto"
        broker.write_text(f'#!/bin/sh\nexec env {preload}{mosquitto_binary()} "$@"\n')
        broker.chmod(0o755)
        for path in (root, *root.rglob("*")):
            os.chown(path, UID, UID)

    def start(self, env: Mapping[str, str] | None = None) -> None:
        """Start, and wait until the plugin answers."""
        self.env = dict(env or self.env)
        ours = {
            "PATH": f"{self.root / 'bin'}:/usr/sbin:/usr/bin:/sbin:/bin",
            "MM_ROOT": str(self.root),
            "MM_PLUGIN": str(self.root / "bin" / plugin_file().name),
            "HOSTNAME": "pod-0",
            "HEALTH_PORT": str(self.health.port),
        }
        argv = [*BECOME, "--pdeathsig", "KILL", "--", str(self.root / "bin" / _SCRIPT.name)]
        child = self._child = Child("drop-in", argv, self._output, env=ours | self.env, cwd=self.root)

        def ready() -> bool:
            assert child.running, f"it ended\n{self.logs()}"
            return self.health.answers("/livez")

        wait_until(ready, 30, lambda: f"it serves\n{self.logs()}")

    def end(self, number: int) -> None:
        """By this signal."""
        assert self._child is not None
        self._child.signal(number)
        code = self._child.wait(15)
        self._child = None
        assert code == (0 if number == signal.SIGTERM else -number), self.logs()

    def close(self) -> None:
        if self._child is not None:
            self._child.kill()

    def logs(self) -> str:
        return self._output.read_text(errors="replace") if self._output.exists() else ""


@pytest.fixture
def drop_in() -> Iterator[_DropIn]:
    # Not below pytest's own directory, where nobody else may look.
    root = Path(tempfile.mkdtemp(prefix="metamorphosis-drop-in-"))
    root.chmod(0o755)
    place = _DropIn(root)
    try:
        yield place
    finally:
        place.close()
        print(f"--- {place.env} ---\n{place.logs()[-8000:]}")
        shutil.rmtree(root)


@pytest.fixture
def remote(tmp_path: Path, make_broker: MakeBroker) -> Remote:
    return start_remote(tmp_path / "remote", make_broker)


def test_same_records(remote: Remote, drop_in: _DropIn, kafka: Cluster) -> None:
    """What a subscriber sees over there is in Kafka, by TLS with a client certificate: each QoS, a retained message, an
    empty one, the last will of a client that is lost; and the test message of 0.1.x. The endpoints answer."""
    topic = kafka.new_topic()
    drop_in.start(remote.env(kafka, topic, certs=str(remote.certificates(drop_in.certs))))
    remote.wait_subscribed()
    sent = [("plant/1", b"one"), ("plant/1", b""), ("plant/2", b"two"), ("plant/3", b"three"), ("plant/4", b"kept")]
    mqtt.publish_all(remote.port, [("elsewhere", b"x"), *sent[:2]], 1)
    mqtt.publish_all(remote.port, sent[2:3], 2)
    mqtt.publish_all(remote.port, sent[3:4], 0)
    with mqtt.Client(remote.port) as client:
        client.publish(*sent[4], 1, retain=True)
    lost = mqtt.Client(remote.port, "lost", will=("plant/will", b"gone", 1))
    lost.socket.close()
    wait_records(kafka.bootstrap, topic, len(sent) + 2)
    records = read_topic(kafka.bootstrap, topic)
    assert sorted(carried(records)) == sorted([*sent, ("plant/will", b"gone")])
    assert b'{"Topic":"plant/1","Content":"b25l"}' in {record.value for record in records}
    assert (drop_in.health.request("/healthz").text, drop_in.health.status("/healthz")) == ("ok", 200)
    drop_in.health.wait_drained(10)
    text = drop_in.health.request("/metrics").text
    for name in ("mqtt_received 6", "mqtt_errors 0", "kafka_sent ", "kafka_errors 0", "kafka_state 0"):
        assert f"\n{name}" in text, name
    drop_in.end(signal.SIGTERM)


def test_nothing_is_lost_on_the_way(remote: Remote, drop_in: _DropIn, kafka: Cluster) -> None:
    """Under load the remote broker is restarted, and the drop-in killed, stopped, and started again: all that was
    acknowledged over there is in Kafka, in order. The Go program ended at the first, and lost its buffer at the others."""
    topic = kafka.new_topic()
    drop_in.start(remote.env(kafka, topic, certs=str(remote.certificates(drop_in.certs))))
    remote.wait_subscribed()
    ledger = Ledger()
    client = ReliableClient(remote.port, "publisher", ["plant/a", "plant/b"], ledger, rate=200).start()
    wait_records(kafka.bootstrap, topic, 100)
    remote.broker.stop()
    remote.broker.start()
    remote.wait_subscribed(times=2)
    for times, number in (3, signal.SIGKILL), (4, signal.SIGTERM):
        drop_in.end(number)
        drop_in.start()
        remote.wait_subscribed(times=times)
    client.finish(60)
    wait_complete(kafka, topic, ledger, drop_in.logs)
    drop_in.end(signal.SIGTERM)
