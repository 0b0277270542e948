"""Settings that change while messages flow: config_file on SIGHUP, certificates and secrets by themselves."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from conftest import MakeBroker, MakeKafka
from harness import mqtt
from harness.audit import Audit, audit_topics
from harness.broker import Broker
from harness.consumer import read_topic
from harness.kafka import Cluster
from harness.live import KEPT, RELOADS, ConfigFile, check_across, read_all, reload, reloads
from harness.load import Load, Stream, streams
from harness.mosquitto21 import mosquitto21_binary, versions
from harness.publisher import parse_payload
from harness.wait import wait_until

APPLIED = "reload: the new settings are in use"


def check(broker: Broker, load: Load, topics: str | list[str], cluster: Cluster, **limits: Any) -> Audit:
    """Nothing lost, in order, nobody disconnected."""
    load.finish(20)
    assert load.n_closed == 0, "an MQTT client was disconnected"
    broker.health.wait_drained(30)
    broker.health.check_ledger_quiet()
    audit = audit_topics(cluster.bootstrap, topics, load.books)
    audit.check(repeated_payloads=0, **limits)
    return audit


@pytest.fixture(params=["memory", "disk"])
def spool(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    """The options of the spool."""
    return {} if request.param == "memory" else {"spool_dir": str(tmp_path / "spool")}


@pytest.fixture(params=versions())
def binary(request: pytest.FixtureRequest) -> str | None:
    """Of each version of the broker."""
    return None if request.param == "2.0" else mosquitto21_binary()


# --- the config_file --------------------------------------------------------------------------------------------------


def test_changes_under_load(
    kafka: Cluster,
    make_broker: MakeBroker,
    tmp_path: Path,
    spool: Mapping[str, str],
    seconds: Callable[[float, float], float],
    figure: Callable[[str], None],
) -> None:
    """Change after change of all kinds of settings while messages flow: all arrive, once, in order; no client is
    disconnected; what waits, waits for moments."""
    topic = kafka.new_topic(partitions=3)
    file = ConfigFile(tmp_path / "mm.conf", kafka_broker=kafka.bootstrap, kafka_topic=topic)
    broker = make_broker({"config_file": str(file.path), "kafka_workers": 2, **spool}).start()
    load = Load(broker.port, streams(4, "load", rate=500)).start()
    kinds: Iterator[dict[str, Any]] = itertools.cycle(
        [
            {"rdkafka.linger.ms": 50},
            {"rdkafka.compression.type": "lz4", "when_full": "drop_newest"},
            {"kafka_retry_interval": 3, "log_level": "debug"},
            {"rdkafka.linger.ms": None, "refuse_v5": "reason_code"},
            {"mqtt_topic": "load/#,else/#", "log_level": "info"},
            {"rdkafka.compression.type": None, "when_full": "drop_oldest"},
            {"mqtt_topic": None, "kafka_retry_interval": None, "when_full": None, "refuse_v5": None},
        ]
    )
    n = 0
    end = time.monotonic() + seconds(5, 300)
    while time.monotonic() < end:
        time.sleep(random.uniform(0, 0.5))
        file.change(**next(kinds))
        reload(broker, "applied")
        n += 1
    audit = check(broker, load, topic, kafka)
    pauses = [int(line.split("for ")[1].split(" ms")[0]) for line in broker.wait_log(APPLIED, count=n)]
    figure(f"{n} changes, {audit}; messages waited for {sum(pauses) // n} ms on average, {max(pauses)} at most")
    assert max(pauses) < 5000
    assert broker.health.scrape().get("metamorphosis_config_last_reload_successful") == 1


def test_filters_and_formats_change(kafka: Cluster, make_broker: MakeBroker, tmp_path: Path) -> None:
    """What is carried and how changes with the reload, and not before."""
    topic = kafka.new_topic()
    file = ConfigFile(tmp_path / "mm.conf", kafka_broker=kafka.bootstrap, kafka_topic=topic, mqtt_topic="a/#")
    broker = make_broker({"config_file": str(file.path)}).start()
    with mqtt.Client(broker.port) as client:
        for number, filters in enumerate(["a/#", "b/#", "a/#,b/#"]):
            file.change(mqtt_topic=filters, json_field_names="Topic,Content" if number < 2 else "t,c")
            client.publish("a/x", b"before %d" % number, 1)
            client.publish("b/x", b"before %d" % number, 1)
            broker.health.wait_drained(10)  # what waits gets the new form
            reload(broker, "applied")
            client.publish("a/x", b"after %d" % number, 1)
            client.publish("b/x", b"after %d" % number, 1)
    broker.health.wait_drained(10)
    records = read_topic(kafka.bootstrap, topic)
    carried = [
        *[("a/x", "before 0"), ("a/x", "after 0")],
        *[("a/x", "before 1"), ("b/x", "after 1")],
        *[("b/x", "before 2"), ("a/x", "after 2"), ("b/x", "after 2")],
    ]
    found = [r.value for r in records]
    assert len(found) == len(carried), found
    for record, (key, _) in zip(records, carried, strict=True):
        assert record.key == key.encode()
    assert [b'"t":' in value for value in found] == [False] * 5 + [True] * 2


BAD = {
    "a line that is none": ("kafka_topic\n", r"kafka_topic"),
    "an unknown option": ("kafka_topik x\n", r"kafka_topik.*line 2|line 2.*kafka_topik"),
    "a wrong value": ("kafka_retry_interval soon\n", r"kafka_retry_interval.*soon"),
    "a property that breaks the promise": ("rdkafka.acks 1\n", r"rdkafka\.acks"),
    "a property that librdkafka refuses": ("rdkafka.compression.type rar\n", r"rdkafka\.compression\.type"),
    "a certificate that is not there": (
        "rdkafka.security.protocol ssl\nrdkafka.ssl.ca.location /nowhere/ca.crt\n",
        r"ssl\.ca\.location",
    ),
}


@pytest.mark.parametrize("mistake", BAD)
def test_a_bad_file_changes_nothing(kafka: Cluster, make_broker: MakeBroker, tmp_path: Path, mistake: str) -> None:
    """A mistake in the new file: what was in use stays, the log says what is wrong, metrics tell."""
    text, said = BAD[mistake]
    topic = kafka.new_topic()
    good = f"kafka_topic {topic}\n"
    file = ConfigFile(tmp_path / "mm.conf")
    file.write(good)
    broker = make_broker({"config_file": str(file.path), "kafka_broker": kafka.bootstrap}).start()
    load = Load(broker.port, streams(2, "load", rate=200)).start()
    file.write("mqtt_topic nothing/of/this\n" + text)
    reload(broker, "failed")
    broker.wait_log(said)
    broker.wait_log(KEPT)
    metrics = broker.health.scrape()
    assert metrics.get("metamorphosis_config_last_reload_successful") == 0
    broker.health.wait_for(lambda m: m.get("metamorphosis_config_file_changed") == 1, 5, "the file is seen to differ")
    file.write(good)
    reload(broker, "unchanged")
    metrics = broker.health.scrape()
    assert metrics.get("metamorphosis_config_last_reload_successful") == 1
    check(broker, load, topic, kafka)


def test_a_cluster_that_is_not_there_is_not_taken(
    kafka: Cluster, make_broker: MakeBroker, tmp_path: Path, kafka_port_of_nobody: int
) -> None:
    """The new address does not answer, the present one does: it stays."""
    topic = kafka.new_topic()
    file = ConfigFile(tmp_path / "mm.conf", kafka_broker=kafka.bootstrap, kafka_topic=topic)
    broker = make_broker({"config_file": str(file.path)}).start()
    load = Load(broker.port, streams(2, "load", rate=200)).start()
    broker.wait_log("Kafka is reached")
    file.change(kafka_broker=f"127.0.0.1:{kafka_port_of_nobody}")
    reload(broker, "failed", 30)
    broker.wait_log(rf"the new settings are not taken: Kafka is not reached.*{kafka_port_of_nobody}.*{KEPT}")
    check(broker, load, topic, kafka)


def test_an_address_is_mended_during_an_outage(
    kafka: Cluster, make_broker: MakeBroker, tmp_path: Path, kafka_port_of_nobody: int
) -> None:
    """Nothing reaches Kafka: settings are taken even without a proof, a second wrong address too, and the right one
    ends the outage."""
    topic = kafka.new_topic()
    wrong = f"127.0.0.1:{kafka_port_of_nobody}"
    file = ConfigFile(tmp_path / "mm.conf", kafka_broker=wrong, kafka_topic=topic)
    broker = make_broker({"config_file": str(file.path)}).start()
    load = Load(broker.port, streams(2, "load", rate=200)).start()
    file.change(kafka_broker=f"127.0.0.1:{kafka_port_of_nobody},{wrong}", kafka_retry_interval=2)
    reload(broker, "applied", 30)
    broker.wait_log("taken without a proof")
    file.change(kafka_broker=kafka.bootstrap)
    reload(broker, "applied")
    check(broker, load, topic, kafka)


def test_another_cluster(
    kafka: Cluster, make_kafka: MakeKafka, make_broker: MakeBroker, tmp_path: Path, spool: Mapping[str, str]
) -> None:
    """From one cluster to another and back: each message is in one of the two, and in order."""
    other = make_kafka()
    other.start()
    topic = kafka.new_topic()
    other.create_topic(topic)
    file = ConfigFile(tmp_path / "mm.conf", kafka_broker=kafka.bootstrap, kafka_topic=topic)
    broker = make_broker({"config_file": str(file.path), **spool}).start()
    load = Load(broker.port, streams(2, "load", rate=500)).start()
    for cluster in (other, kafka):
        _flows(broker, 200)
        file.change(kafka_broker=cluster.bootstrap)
        reload(broker, "applied")
    _flows(broker, 200)
    load.finish(20)
    assert load.n_closed == 0
    broker.health.wait_drained(10)
    here, there = read_topic(kafka.bootstrap, topic), read_topic(other.bootstrap, topic)
    assert len(there) > 100
    seqs = {name: [int(r.mm_id.rpartition("-")[2]) for r in records] for name, records in (("h", here), ("t", there))}
    assert sorted(seqs["h"] + seqs["t"]) == list(range(1, load.n_sent + 1))
    # Those there follow each other, and lie between two of those here.
    assert seqs["h"] == sorted(seqs["h"])
    assert seqs["t"] == list(range(seqs["t"][0], seqs["t"][-1] + 1))


def _flows(broker: Broker, n: int) -> None:
    """Until n more messages are delivered."""
    target = broker.health.scrape().delivered + n
    broker.health.wait_for(lambda m: m.delivered >= target, 20, f"{n} more are delivered")


def _phases(load: Load, broker: Broker, n: int) -> None:
    """Until n more messages are acknowledged."""
    target = load.n_acked + n
    wait_until(lambda: load.n_acked >= target, 20, lambda: f"{n} more are acknowledged\n{broker.logs()}")


def test_routes_change_under_load(
    kafka: Cluster, make_broker: MakeBroker, tmp_path: Path, spool: Mapping[str, str]
) -> None:
    """Routes come, change and go: each message is in one of the Kafka topics, and each of these has its own in order."""
    topics = [kafka.new_topic(), kafka.new_topic(), kafka.new_topic()]
    file = ConfigFile(tmp_path / "mm.conf", kafka_broker=kafka.bootstrap, kafka_topic=topics[0])
    broker = make_broker({"config_file": str(file.path), "kafka_workers": 2, **spool}).start()
    load = Load(broker.port, streams(3, "load", rate=500)).start()
    routes = [f"load/+/1,load/0/# {topics[1]}", f"load/0/#,load/1/2 {topics[2]}", f"# {topics[1]}", None]
    for route in [*routes, *reversed(routes[:-1])]:
        # What waits goes by the new routes, and a new producer has its first message in Kafka after up to a second.
        before = broker.health.scrape().delivered
        broker.health.wait_for(lambda m, n=before: m.delivered >= n + 500, 20, "500 more are delivered")  # type: ignore[misc]
        file.change(route=route)
        reload(broker, "applied")
    load.finish(20)
    assert load.n_closed == 0
    broker.health.wait_drained(30)
    broker.health.check_ledger_quiet()
    records = read_all(kafka.bootstrap, topics)
    assert all(len(found) > 100 for found in records.values())
    check_across(load, records)


def test_what_is_parked_goes_where_the_new_route_leads(
    kafka: Cluster, make_broker: MakeBroker, tmp_path: Path, spool: Mapping[str, str]
) -> None:
    """A route leads to a Kafka topic that is not there, and is mended: what had been parked is in the right one, in
    order, before what came later. The others notice nothing."""
    others, right = kafka.new_topic(), kafka.new_topic()
    file = ConfigFile(tmp_path / "mm.conf", kafka_broker=kafka.bootstrap, kafka_topic=others)
    file.change(**{"route": f"b/# {right}-misspelt", "rdkafka.topic.metadata.propagation.max.ms": 500})
    broker = make_broker({"config_file": str(file.path), "kafka_workers": 2, **spool}).start()
    load = Load(broker.port, [Stream("a", ["a/1", "a/2"], rate=300), Stream("b", ["b/1", "b/2"], rate=300)]).start()
    broker.health.wait_for(lambda m: m.get("metamorphosis_parked_messages") > 300, 20, "some are parked")
    # A change that leaves the routes alone leaves them parked.
    file.change(kafka_retry_interval=2)
    reload(broker, "applied")
    broker.health.wait_for(lambda m: m.get("metamorphosis_parked_messages") > 500, 20, "more are parked")
    file.change(route=f"b/# {right}")
    reload(broker, "applied")
    broker.wait_log("what was parked by earlier routes is dealt with")
    _phases(load, broker, 500)
    load.finish(20)
    assert load.n_closed == 0
    metrics = broker.health.wait_drained(30)
    assert metrics.get("metamorphosis_parked_messages") == 0
    broker.health.check_ledger_quiet()
    audit_topics(kafka.bootstrap, [others, right], load.books).check(repeated_ids=0, repeated_payloads=0)


def test_kills_while_routes_change(
    apache_kafka: Cluster, make_broker: MakeBroker, tmp_path: Path, seconds: Callable[[float, float], float]
) -> None:
    """kill -9 around changes of routes with parked messages: nothing is lost, the order holds. (What a kill makes the
    plugin send again goes by the routes of then: a repeat, with its mm-id, may be in another Kafka topic.)"""
    kafka = apache_kafka
    topics = [kafka.new_topic(config={"message.timestamp.type": "LogAppendTime"}) for _ in range(2)]
    missing = f"{topics[1]}-missing"
    file = ConfigFile(tmp_path / "mm.conf", kafka_broker=kafka.bootstrap, kafka_topic=topics[0])
    file.change(**{"rdkafka.topic.metadata.propagation.max.ms": 300, "kafka_retry_interval": 1})
    broker = make_broker({"config_file": str(file.path), "kafka_workers": 2, "spool_dir": str(tmp_path / "spool")})
    load = Load(broker.port, [Stream(f"b{k}", [f"b/{k}/0", f"b/{k}/1"], rate=150) for k in range(2)]).start()
    routes = [f"b/# {missing}", f"b/0/# {missing}", f"b/# {topics[1]}", f"b/+/1 {missing}"]
    for _ in range(int(seconds(8, 200))):
        broker.start()
        for _ in range(2):
            file.change(route=random.choice(routes))
            broker.reload()
            time.sleep(random.uniform(0.1, 0.8))
        broker.kill()
    file.change(route=f"b/# {topics[1]}")
    broker.start()
    load.finish(30)
    broker.health.wait_drained(60)
    records = read_all(kafka.bootstrap, topics)
    places: dict[tuple[str, int], str] = {}
    first: dict[str, int] = {}  # when each id was appended first, anywhere
    for record in itertools.chain(*records.values()):
        first[record.mm_id] = min(record.timestamp_ms, first.get(record.mm_id, record.timestamp_ms))
    for topic, found in records.items():
        last: dict[str, int] = {}
        for record in found:
            if record.timestamp_ms > first[record.mm_id]:
                continue
            mqtt_topic, seq = record.mqtt_topic, record.seq
            assert seq > last.get(mqtt_topic, -1), f"{topic}: {mqtt_topic} {seq} behind {last[mqtt_topic]}"
            last[mqtt_topic] = seq
            places[mqtt_topic, parse_payload(record.payload)[1]] = topic
    for mqtt_topic, book in load.books.items():
        lost = [n for n in range(book.n_sent) if book.acked[n] and (mqtt_topic, n) not in places]
        assert not lost, f"{mqtt_topic}: acknowledged and lost: {lost[:10]}"


def test_a_storm_of_signals(kafka: Cluster, make_broker: MakeBroker, tmp_path: Path) -> None:
    """50 SIGHUP in 5 s, the file different at each."""
    topic = kafka.new_topic()
    file = ConfigFile(tmp_path / "mm.conf", kafka_broker=kafka.bootstrap, kafka_topic=topic)
    broker = make_broker({"config_file": str(file.path), "kafka_workers": 2}).start()
    load = Load(broker.port, streams(4, "load", rate=300)).start()
    for number in range(50):
        file.change(**{"rdkafka.linger.ms": number % 20 + 1})
        broker.reload()
        time.sleep(0.1)
    broker.health.wait_for(
        lambda m: m.get("metamorphosis_config_file_changed") == 0 and m.get(RELOADS, result="applied") >= 3,
        10,
        "the last file is in use",
    )
    audit = check(broker, load, topic, kafka)
    assert reloads(broker, "failed") == 0
    assert audit.repeated_ids == 0


def test_what_cannot_change_is_named(kafka: Cluster, make_broker: MakeBroker, tmp_path: Path) -> None:
    """Options that count from a start on stay as they are, and are named; all else of the file counts."""
    first, second = kafka.new_topic(), kafka.new_topic()
    file = ConfigFile(tmp_path / "mm.conf", kafka_broker=kafka.bootstrap, kafka_topic=first)
    broker = make_broker({"config_file": str(file.path)}).start()
    file.change(kafka_topic=second, kafka_workers=3, spool_dir=tmp_path / "spool")
    reload(broker, "applied")
    broker.wait_log(r"only the next start of the broker can change: kafka_workers \(1, wanted 3\), spool_dir")
    assert broker.health.scrape().get("metamorphosis_config_restart_needed") >= 2
    assert not (tmp_path / "spool").exists()
    with mqtt.Client(broker.port) as client:
        client.publish("a", b"x", 1)
    broker.health.wait_drained(10)
    assert len(read_topic(kafka.bootstrap, second)) == 1
    file.change(kafka_workers=None, spool_dir=None)
    reload(broker, "applied")
    assert broker.health.scrape().get("metamorphosis_config_restart_needed") == 0


def test_the_acl_file_counts_after_a_reload(
    kafka: Cluster, make_broker: MakeBroker, tmp_path: Path, binary: str | None
) -> None:
    """On both versions of the broker: good and bad files, and the broker's own ACL file stays in force."""
    acl = tmp_path / "acl"
    acl.write_text("topic readwrite open/#\n")
    topic = kafka.new_topic()
    file = ConfigFile(tmp_path / "mm.conf", kafka_broker=kafka.bootstrap, kafka_topic=topic)
    broker = make_broker(
        {"config_file": str(file.path)}, config_lines=[f"acl_file {acl}"], binary=binary
    ).start()
    with mqtt.Client(broker.port, version=mqtt.V5) as client:
        for number, (text, result) in enumerate([("", "applied"), ("nonsense\n", "failed"), ("", "applied")]):
            file.change(**{"rdkafka.linger.ms": number + 1})
            file.write(file.path.read_text() + text)
            reload(broker, result)
            for name, allowed in (("open/a", True), ("closed/a", False)):
                answer = client.publish(name, b"x", 1)
                assert answer is not None
                assert (answer.reason < mqtt.FAILURE) == allowed
    broker.health.wait_drained(10)
    assert [r.mqtt_topic for r in read_topic(kafka.bootstrap, topic)] == ["open/a"] * 3


def test_a_stop_in_the_middle(kafka: Cluster, make_broker: MakeBroker, tmp_path: Path) -> None:
    """SIGTERM right behind SIGHUP, at random moments: the stop is as quick as any, and what was acknowledged is in
    Kafka or in the spool."""
    topic = kafka.new_topic()
    file = ConfigFile(tmp_path / "mm.conf", kafka_broker=kafka.bootstrap, kafka_topic=topic)
    broker = make_broker({"config_file": str(file.path), "spool_dir": str(tmp_path / "spool")})
    load = Load(broker.port, streams(2, "load", rate=500)).start()
    for number in range(6):
        broker.start()
        time.sleep(0.3)
        file.change(**{"rdkafka.linger.ms": number + 1})
        broker.reload()
        time.sleep(random.uniform(0, 0.15))
        stopped = broker.stop()
        assert stopped.seconds < 10
    broker.start()
    load.finish(20)
    broker.health.wait_drained(20)
    audit_topics(kafka.bootstrap, topic, load.books).check(repeated_ids=None)


def test_kills_in_the_middle(
    kafka: Cluster, make_broker: MakeBroker, tmp_path: Path, seconds: Callable[[float, float], float]
) -> None:
    """kill -9 at random moments around a change: nothing is lost, the order holds."""
    topic = kafka.new_topic(partitions=2)
    file = ConfigFile(tmp_path / "mm.conf", kafka_broker=kafka.bootstrap, kafka_topic=topic)
    broker = make_broker(
        {"config_file": str(file.path), "kafka_workers": 2, "spool_dir": str(tmp_path / "spool")}
    )
    load = Load(broker.port, streams(3, "load", rate=500)).start()
    for number in range(int(seconds(8, 200))):
        broker.start()
        for _ in range(2):
            file.change(**{"rdkafka.linger.ms": number % 20 + 1})
            broker.reload()
            time.sleep(random.uniform(0, 0.2))
        broker.kill()
    broker.start()
    load.finish(30)
    broker.health.wait_drained(30)
    audit_topics(kafka.bootstrap, topic, load.books).check(repeated_ids=None)


def test_a_change_while_kafka_is_frozen(pausable: Any, make_broker: MakeBroker, tmp_path: Path) -> None:
    """Requests are on the wire and not answered: the change is made in time all the same, and nothing is lost."""
    topic = pausable.new_topic()
    file = ConfigFile(tmp_path / "mm.conf", kafka_broker=pausable.bootstrap, kafka_topic=topic)
    broker = make_broker({"config_file": str(file.path)}).start()
    load = Load(broker.port, streams(2, "load", rate=300)).start()
    wait_until(lambda: load.n_acked > 300, 10, "some are acknowledged")
    pausable.pause()
    time.sleep(1)
    broker.health.wait_for(lambda m: m.total("metamorphosis_kafka_in_flight_messages") > 0, 5, "some are on the wire")
    file.change(**{"rdkafka.linger.ms": 7})
    broker.reload()
    # There is no proof to be had, and the old producer counts as up for some seconds: either outcome is right.
    broker.health.wait_for(
        lambda m: m.get(RELOADS, result="applied") + m.get(RELOADS, result="failed") == 1, 40, "the reload has ended"
    )
    pausable.resume()
    reload(broker, "applied" if reloads(broker, "failed") else "unchanged", 30)
    check(broker, load, topic, pausable, repeated_ids=None)
