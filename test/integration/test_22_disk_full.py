"""The disk fills up and is freed again: nothing acknowledged is lost, nothing is acknowledged that is not kept, and the
broker serves all the time."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import MakeBroker, MakeDisk, MakeKafka
from harness import mqtt
from harness.audit import audit_topics
from harness.beside import Beside
from harness.broker import Broker
from harness.kafka import Cluster, Kafka
from harness.load import Load, Stream, streams
from harness.metrics import PREFIX, Metrics
from harness.mosquitto21 import mosquitto21_binary, versions
from harness.toxic import Toxin, ToxicProxy
from harness.wait import wait_until

_KIB = 1024
_MIB = 1024 * _KIB

MOSQUITTO = pytest.mark.parametrize("mosquitto", versions())


def _binary(mosquitto: str) -> str | None:
    """None: the system's, which is a 2.0 on Debian 12."""
    return mosquitto21_binary() if mosquitto == "2.1" else None


def _all_kinds(rate: float) -> list[Stream]:
    """MQTT 3.1.1 and 5, QoS 0, 1 and 2."""
    return [
        *streams(1, "old-1", rate=rate, size=1000),
        *streams(1, "old-2", rate=rate, size=1000, qos=2),
        *streams(1, "new-1", rate=rate, size=1000, version=mqtt.V5),
        *streams(1, "new-2", rate=rate, size=1000, version=mqtt.V5, qos=2),
        *streams(1, "old-0", rate=rate, size=1000, qos=0),
        *streams(1, "new-0", rate=rate, size=1000, qos=0, version=mqtt.V5),
    ]


def _lost_by_drop(metrics: Metrics) -> float:
    return metrics.get(PREFIX + "messages_dropped_total", reason="qos0_spool_full")


class _Pings(Beside):
    """A client that is connected all the time and measures how long the broker takes to answer."""

    def __init__(self, port: int) -> None:
        super().__init__(every=0.02)
        self.worst = 0.0
        self._client = mqtt.Client(port, "pings", timeout=20)

    def once(self) -> None:
        self.worst = max(self.worst, self._client.ping())

    def ended(self) -> None:
        self._client.close()


@MOSQUITTO
@pytest.mark.limit(long=1800)
def test_filled_and_freed_again_and_again(
    kafka: Cluster,
    make_disk: MakeDisk,
    make_broker: MakeBroker,
    seconds: Callable[[float, float], float],
    figure: Callable[[str], None],
    mosquitto: str,
) -> None:
    """Another process takes all of a small disk and gives it back, many times, under load by all kinds of publishers.
    Each time they are refused without an acknowledgement, and all of them go on within 1 s of the space's return; the
    broker answers its other clients throughout. In the end Kafka has every message, in order, once by the plugin; those
    of QoS 0 that are missing are those that were counted."""
    binary = _binary(mosquitto)
    disk = make_disk(24 * _MIB)
    topic = kafka.new_topic(2)
    broker = make_broker(
        {
            "kafka_broker": kafka.bootstrap,
            "kafka_topic": topic,
            "kafka_workers": 2,
            "spool_dir": disk.directory / "spool",
            "spool_max_bytes": "2M",
            "spool_min_free": "64k",
        },
        binary=binary,
        leak_check=binary is None,
    ).start()
    (version,) = re.findall(r"mosquitto version (2\.\d+)\.\d+ starting", broker.logs())
    assert version == mosquitto or binary is None
    assert f'mosquitto="{version}"' in broker.health.request("/metrics").text
    slowest, n_cycles = 0.0, int(seconds(6, 100))
    with Load(broker.port, _all_kinds(400)) as load, _Pings(broker.port) as pings:
        for _ in range(n_cycles):
            before = broker.health.scrape()
            disk.fill()
            broker.health.wait_for(
                lambda m, b=before: m.refused >= b.refused + 4 and _lost_by_drop(m) > _lost_by_drop(b),  # type: ignore[misc]
                15,
                "publishers are refused",
            )
            disk.release()
            freed = time.monotonic()
            wait_until(lambda f=freed: min(load.acked_at().values()) > f, 10, "all publishers go on", interval=0.005)  # type: ignore[misc]
            slowest = max(slowest, max(load.acked_at().values()) - freed)
            time.sleep(0.1)
        load.finish(10)
        n_closed = load.n_closed
    metrics = broker.health.wait_drained(10)
    audit = audit_topics(kafka.bootstrap, topic, load.books)
    n_dropped = load.n_sent - load.n_acked - (audit.n_records - audit.repeated_payloads - load.n_acked)
    figure(
        f"{n_cycles} times full; went on after {slowest:.2f} s at most; {metrics.refused:.0f} refused, "
        f"{n_dropped} of QoS 0 dropped; slowest answer to a ping {pings.worst:.3f} s; {audit}"
    )
    audit.check()
    assert audit.repeated_payloads <= load.n_resent
    assert n_dropped == metrics.dropped > 0
    assert n_closed >= n_cycles * 4, "each of four publishers was to be refused each time"
    assert slowest <= 1.0
    assert pings.worst <= 1.0
    broker.wait_log(r"metamorphosis: .*full")


@pytest.mark.parametrize(
    ("mosquitto", "limit"),
    [("2.0", "spool_max_bytes"), *((version, "spool_min_free") for version in versions())],
)
def test_full_by_itself(
    pausable: Kafka,
    make_disk: MakeDisk,
    make_broker: MakeBroker,
    figure: Callable[[str], None],
    mosquitto: str,
    limit: str,
) -> None:
    """Kafka does not answer and the spool fills up to spool_max_bytes, or to what spool_min_free leaves it of the disk:
    readyz says so before the first message is refused; a log line has the directory, the limit and the age of the
    oldest message; others can still write to the disk; no MQTT 3.1.1 client gets a PUBACK for what is not kept. When
    Kafka answers again all that was acknowledged arrives and publishers go on."""
    binary = _binary(mosquitto)
    disk = make_disk(24 * _MIB)
    topic = pausable.new_topic()
    pausable.pause()
    directory = disk.directory / "spool"
    sizes = {
        "spool_min_free": {"spool_min_free": "12M", "spool_max_bytes": "16M"},
        "spool_max_bytes": {"spool_min_free": "1M", "spool_max_bytes": "8M"},
    }[limit]
    broker = make_broker(
        {"kafka_broker": pausable.bootstrap, "kafka_topic": topic, "spool_dir": directory, **sizes},
        binary=binary,
        leak_check=binary is None,
    ).start()
    kinds = [*streams(2, "old", rate=500, size=2000), *streams(2, "new", rate=500, size=2000, version=mqtt.V5)]
    with Load(broker.port, kinds) as load:
        wait_until(lambda: broker.health.status("/readyz") == 503, 20, "not ready", interval=0.01)
        assert broker.health.scrape().refused == 0, "a publisher was refused before readyz told of it"
        broker.health.wait_for(lambda m: m.refused >= 10, 20, "publishers are refused")
        (line, *_) = broker.wait_log(r"metamorphosis: .*\bfull\b.*")
        assert str(directory) in line and limit in line and re.search(r"oldest.* \d+ s", line), line
        metrics = broker.health.scrape()
        assert metrics.get(PREFIX + "spool_full") == 1
        assert broker.health.status("/livez") == 200
        used = sum(path.stat().st_blocks * 512 for path in directory.glob("*.seg"))
        if limit == "spool_max_bytes":
            assert used <= 8 * _MIB
            assert metrics.get(PREFIX + "spool_limit_bytes") == 8 * _MIB
        else:
            assert disk.free >= 12 * _MIB
            (disk.directory / "another").write_bytes(b"x" * (disk.free - 64 * _KIB))
            (disk.directory / "another").unlink()
        with mqtt.Client(broker.port) as client:
            client.send(mqtt.publish("refused", b"x" * 2000, 1, 1))
            assert client.wait_closed(5) == []
        n_stored = load.n_acked
        pausable.resume()
        wait_until(lambda: load.n_acked > n_stored + 100, 20, "publishers go on")
        load.finish(20)
    metrics = broker.health.wait_drained(30)
    broker.health.wait_status("/readyz", 200, 2)
    audit = audit_topics(pausable.bootstrap, topic, load.books)
    figure(f"{n_stored} stored when full ({used // _KIB} KiB on disk), {metrics.refused:.0f} refused; {audit}")
    audit.check()
    assert audit.repeated_payloads <= load.n_resent


class _Transitions(Beside):
    """Counts how often the spool becomes full."""

    def __init__(self, broker: Broker) -> None:
        super().__init__(every=0.002)
        self.n = 0
        self._was_full = True
        self._broker = broker

    def once(self) -> None:
        text = self._broker.health.request("/metrics").text
        full = re.search(rf"^{PREFIX}spool_full 1$", text, re.MULTILINE) is not None
        self.n += full and not self._was_full
        self._was_full = full


def test_limit_has_hysteresis(
    make_kafka: MakeKafka, make_broker: MakeBroker, figure: Callable[[str], None], tmp_path: Path
) -> None:
    """A spool at its limit from which Kafka takes more slowly than publishers give: it takes messages again when there
    is room for a whole segment, so that publishers are accepted for a while and refused for a while, and not one after
    the other."""
    segment = 256 * _KIB
    with ToxicProxy() as proxy:
        kafka = make_kafka({"advertised.listeners": f"PLAINTEXT://127.0.0.1:{proxy.port}"})
        proxy.server_port = kafka.port
        kafka.start()
        topic = kafka.new_topic()
        broker = make_broker(
            {
                "kafka_broker": kafka.bootstrap,
                "kafka_topic": topic,
                "spool_dir": tmp_path / "spool",
                "spool_max_bytes": 8 * segment,
            }
        ).start()
        proxy.toxin = Toxin(rate=1000 * _KIB)
        with Load(broker.port, streams(4, "a", rate=700, size=1000)) as load:
            broker.health.wait_for(lambda m: m.refused > 0, 20, "publishers are refused")
            before, begin = broker.health.scrape(), time.monotonic()
            with _Transitions(broker) as transitions:
                time.sleep(4)
            after, took = broker.health.scrape(), time.monotonic() - begin
            proxy.toxin = Toxin()
            load.finish(20)
        broker.health.wait_drained(20)
        audit = audit_topics(kafka.bootstrap, topic, load.books)
    name = PREFIX + "messages_spooled_total"
    n_bytes = (after.get(name) - before.get(name)) * 1050
    figure(
        f"{n_bytes / took / _KIB:.0f} KiB/s stored, {transitions.n} times full in {took:.1f} s, "
        f"{n_bytes / segment:.1f} segments; {after.refused - before.refused:.0f} refused; {audit}"
    )
    audit.check()
    assert after.refused - before.refused > 20
    assert 1 <= transitions.n <= n_bytes / segment * 1.5 + 2


def test_disk_full_at_start(
    kafka: Cluster,
    make_disk: MakeDisk,
    make_broker: MakeBroker,
    kafka_port_of_nobody: int,
    figure: Callable[[str], None],
) -> None:
    """The disk is full when the broker starts, with a backlog of an earlier process that was killed: it starts, says
    why it takes no messages, refuses them without an acknowledgement, delivers the backlog all the same; and goes on
    within 1 s when there is space."""
    disk = make_disk(16 * _MIB)
    topic = kafka.new_topic()
    directory = disk.directory / "spool"
    options = {
        "kafka_broker": f"127.0.0.1:{kafka_port_of_nobody}",
        "kafka_topic": topic,
        "spool_dir": directory,
        "spool_max_bytes": "2M",
        "spool_min_free": "64k",
    }
    broker = make_broker(options).start()
    with Load(broker.port, streams(2, "a", rate=500, size=1000)) as load:
        wait_until(lambda: load.n_acked >= 500, 10, "500 messages are stored")
        broker.kill()
        disk.fill()
        broker.start()
        broker.health.wait_for(lambda m: m.refused > 0, 10, "publishers are refused")
        assert broker.health.status("/readyz") == 503
        broker.wait_log(r"metamorphosis: .*(full|No space)")
        broker.change(kafka_broker=kafka.bootstrap)
        broker.kill()
        broker.start()
        disk.release()
        freed = time.monotonic()
        wait_until(lambda: min(load.acked_at().values()) > freed, 10, "all publishers go on", interval=0.005)
        went_on = max(load.acked_at().values()) - freed
        load.finish(10)
    broker.health.wait_drained(20)
    audit = audit_topics(kafka.bootstrap, topic, load.books)
    figure(f"went on after {went_on:.2f} s; {audit}")
    audit.check()
    assert went_on <= 1.0


def test_disk_full_at_first_start(kafka: Cluster, make_disk: MakeDisk, make_broker: MakeBroker) -> None:
    """Nothing is there yet and there is not a byte of space: the broker starts, says why it takes no messages, refuses
    them without an acknowledgement; and goes on within 1 s when there is space."""
    disk = make_disk(16 * _MIB)
    directory = disk.directory / "spool"
    topic = kafka.new_topic()
    broker = make_broker(
        {"kafka_broker": kafka.bootstrap, "kafka_topic": topic, "spool_dir": directory, "spool_max_bytes": "4M"}
    )
    disk.fill()
    broker.start()
    assert broker.health.status("/readyz") == 503
    with Load(broker.port, streams(2, "a", rate=100)) as load:
        broker.health.wait_for(lambda m: m.refused > 3, 10, "publishers are refused")
        broker.wait_log(rf"metamorphosis: .*{re.escape(str(directory))}.*(full|No space left on device)")
        assert load.n_acked == 0
        disk.release()
        freed = time.monotonic()
        wait_until(lambda: min(load.acked_at().values()) > freed, 10, "all publishers go on", interval=0.005)
        assert max(load.acked_at().values()) - freed <= 1.0
        load.finish(10)
    broker.health.wait_drained(10)
    broker.health.wait_status("/readyz", 200, 2)
    audit_topics(kafka.bootstrap, topic, load.books).check()
