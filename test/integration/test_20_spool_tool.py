"""`metamorphosis spool`: a look at spools of a real broker, in use, copied, and damaged; what it sends to Kafka is what
the plugin sends; what it mends, the plugin takes."""

from __future__ import annotations

import base64
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

from conftest import MakeBroker
from harness import mqtt, spool_format
from harness.broker import Broker
from harness.consumer import Record, check_delivery, count_records, read_topic, wait_records
from harness.kafka import Cluster, unique
from harness.publisher import Ledger, ReliableClient
from harness.tool import good, tool
from harness.wait import wait_until

_TOPICS = ["plant/1/temp", "plant/2/temp", "a/ü", "x"]


def _messages(n: int) -> list[tuple[bytes | str, bytes]]:
    return [(_TOPICS[i % len(_TOPICS)], f"message {i} ".encode() * (i % 7)) for i in range(n)]


def _publish_without_kafka(make_broker: MakeBroker, spool: Path, port: int, n: int) -> Broker:
    broker = make_broker({"kafka_broker": f"127.0.0.1:{port}", "spool_dir": spool}).start()
    mqtt.publish_all(broker.port, _messages(n))
    return broker


def _records(objects: list[dict[str, Any]]) -> list[tuple[str, bytes]]:
    return [(o["mqtt_topic"], base64.b64decode(o["payload"], validate=True)) for o in objects]


def _as_text(messages: list[tuple[bytes | str, bytes]]) -> list[tuple[str, bytes]]:
    return [(topic if isinstance(topic, str) else topic.decode(), payload) for topic, payload in messages]


def test_shows_a_spool_in_use(make_broker: MakeBroker, tmp_path: Path, kafka_port_of_nobody: int) -> None:
    """ls, stat, verify and dump on the spool of a running broker, and on a copy made meanwhile: all that was
    acknowledged is there, and nothing is wrong."""
    spool = tmp_path / "spool"
    broker = _publish_without_kafka(make_broker, spool, kafka_port_of_nobody, 200)

    stat = good("spool", "stat", "--json", spool).document
    assert stat["in_use"] is True
    assert stat["holder"] == broker.pid
    assert stat["pending"] == 200
    assert stat["records"] == 200
    assert stat["oldest_seq"] == 1
    assert 0 <= stat["oldest_age_ms"] < 60_000
    assert f"in use by pid {broker.pid}" in good("spool", "stat", spool).out

    # The counters are those of the last time that STATE was written.
    def counted() -> bool:
        counters = good("spool", "stat", "--json", spool).document["counters"]
        return bool(counters["received"] == {"qos0": 0, "qos1": 200, "qos2": 0})

    wait_until(counted, 10, "STATE has the counters")
    counters = good("spool", "stat", "--json", spool).document["counters"]
    assert (counters["dead_letter_copies"], counters["dead_letter_copies_failed"]) == (0, 0)

    for directory in (spool, Path(shutil.copytree(spool, tmp_path / "copy"))):
        in_use = directory == spool
        assert good("spool", "stat", "--json", directory).document["in_use"] is in_use
        segments = good("spool", "ls", "--json", directory).objects
        assert sum(s["records"] for s in segments if s["log"] == "") == 200
        assert {s["state"] for s in segments} <= {"open", "spare"}
        verdict = good("spool", "verify", "--json", directory).objects
        assert len(verdict) == 1
        assert verdict[0]["verdict"] == "good"
        assert verdict[0]["records"] == 200
        assert "nothing is wrong" in good("spool", "verify", directory).out
        objects = good("spool", "dump", "--json", directory).objects
        assert _records(objects) == _as_text(_messages(200))
        assert [o["seq"] for o in objects] == list(range(1, 201))
        assert all(o["qos"] == 1 and not o["retain"] and not o["finished"] and o["crc"] for o in objects)

    # Another reader, which is not made of our code, sees the same.
    others = [line for line in spool_format.describe(tmp_path / "copy") if "seq" in line]
    assert [
        (o["seq"], o["time_ms"], bytes.fromhex(o["topic"]).decode(), bytes.fromhex(o["payload"])) for o in others
    ] == [(o["seq"], o["time_ms"], o["mqtt_topic"], base64.b64decode(o["payload"])) for o in objects]

    some = good("spool", "dump", "--json", "--from", "3", "--to", "60", "--topic", "plant/#", "--limit", "5", spool)
    assert [o["seq"] for o in some.objects] == [5, 6, 9, 10, 13]
    text = good("spool", "dump", "--from=200", spool).out
    assert "x" in text.splitlines()[1]
    assert len(text.splitlines()) == 2
    broker.abandon()


def test_takes_no_work_for_damage(kafka: Cluster, make_broker: MakeBroker, tmp_path: Path) -> None:
    """While messages flow, segments are made, filled, sealed and deleted: none of it is damage to verify, whenever it
    looks, and nobody is hindered."""
    spool = tmp_path / "spool"
    topic = kafka.new_topic(2)
    options = {"kafka_broker": kafka.bootstrap, "kafka_topic": topic, "spool_dir": spool, "spool_max_bytes": "1M"}
    broker = make_broker({**options, "when_full": "reject"}).start()
    ledger = Ledger()
    load = ReliableClient(broker.port, "c", [f"t/{n}" for n in range(20)], ledger, window=100, size=1000).start()
    for _ in range(40):
        verdict = tool("spool", "verify", "--json", spool)
        assert verdict.code == 0, f"{verdict.out}{verdict.err}"
        assert tool("spool", "dump", "--json", spool).code == 0
        assert tool("spool", "stat", "--json", spool).code == 0
    load.finish(30)
    broker.health.wait_drained(30)
    check_delivery(ledger, read_topic(kafka.bootstrap, topic))
    names = {s["file"] for s in good("spool", "ls", "--json", spool).objects if s["log"] == ""}
    assert f"{1:016x}.seg" not in names, "no segment was ever deleted"


def test_refuses_no_broker(make_broker: MakeBroker, tmp_path: Path, kafka_port_of_nobody: int) -> None:
    """A look never keeps a broker from starting."""
    spool = tmp_path / "spool"
    broker = _publish_without_kafka(make_broker, spool, kafka_port_of_nobody, 3)
    broker.abandon()
    stop = threading.Event()

    def look_on() -> None:
        while not stop.is_set():
            tool("spool", "stat", spool)

    threads = [threading.Thread(target=look_on) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(5):
            broker.start()
            broker.abandon()
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def _as_sent(records: list[Record]) -> dict[str, list[tuple[Any, ...]]]:
    """What a consumer sees of the records of each MQTT topic, in order."""
    seen: dict[str, list[tuple[Any, ...]]] = {}
    for r in records:
        seen.setdefault(r.mqtt_topic, []).append((r.key, r.value, r.headers, r.timestamp_ms))
    return seen


def test_replays_what_the_plugin_would_send(
    kafka: Cluster, make_broker: MakeBroker, tmp_path: Path, kafka_port_of_nobody: int
) -> None:
    """A copy of a spool is sent to one Kafka topic by the tool, and the spool to another by the broker: consumers see
    the same."""
    spool = tmp_path / "spool"
    broker = _publish_without_kafka(make_broker, spool, kafka_port_of_nobody, 300)
    refused = tool("spool", "replay", "--kafka", kafka.bootstrap, "--topic", "t", spool)
    assert refused.code == 1
    assert "in use" in refused.err
    broker.abandon()
    copy = Path(shutil.copytree(spool, tmp_path / "copy"))

    by_tool = kafka.new_topic(3)
    assert "would send 300 records" in good("spool", "replay", "--dry-run", copy).out
    replay = good("spool", "replay", "--kafka", kafka.bootstrap, "--topic", by_tool, copy)
    assert "delivered 300 records" in replay.out
    by_broker = kafka.new_topic(3)
    make_broker({"kafka_broker": kafka.bootstrap, "kafka_topic": by_broker, "spool_dir": spool}).start()
    expected = _as_sent(wait_records(kafka.bootstrap, by_broker, 300))
    assert sum(len(records) for records in expected.values()) == 300
    assert _as_sent(read_topic(kafka.bootstrap, by_tool)) == expected

    # A part of it, and by routes.
    part = kafka.new_topic()
    plant = kafka.new_topic()
    good(
        *("spool", "replay", "--kafka", kafka.bootstrap, "--topic", part, "--from", "11", "--to", "30"),
        *("--set", f"route=plant/# {plant}", "--rdkafka.compression.codec=gzip", copy),
    )
    assert sorted(r.seq for r in read_topic(kafka.bootstrap, part)) == [n for n in range(11, 31) if n % 4 in (3, 0)]
    assert sorted(r.seq for r in read_topic(kafka.bootstrap, plant)) == [n for n in range(11, 31) if n % 4 in (1, 2)]


def test_replays_what_is_parked(kafka: Cluster, make_broker: MakeBroker, tmp_path: Path) -> None:
    """Messages that wait in a log of their own for a Kafka topic that is missing: stat shows them, and the tool sends
    them with the ids that they got first, as the broker does when the topic is there."""
    spool = tmp_path / "spool"
    topic = kafka.new_topic()
    missing = unique("missing")
    options = [
        ("kafka_broker", kafka.bootstrap),
        ("kafka_topic", topic),
        ("route", f"later/# {missing}"),
        ("kafka_retry_interval", 1),
        ("spool_dir", str(spool)),
    ]
    broker = make_broker(options).start()
    messages: list[tuple[bytes | str, bytes]] = [
        (f"later/{i % 3}" if i % 2 else "now", str(i).encode()) for i in range(60)
    ]
    mqtt.publish_all(broker.port, messages)

    def parked() -> bool:
        logs = good("spool", "stat", "--json", spool).document["parked"]
        return [(log["kafka_topic"], log["pending"]) for log in logs] == [(missing, 30)]

    wait_until(parked, 60, "30 messages are parked")
    wait_records(kafka.bootstrap, topic, 30)
    assert "parked/" in good("spool", "ls", spool).out
    assert good("spool", "verify", "--json", spool).objects[-1]["records"] >= 30
    parked_log = spool / "parked" / missing
    ids = {o["mqtt_topic"] + o["payload"]: o["id"] for o in good("spool", "dump", "--json", parked_log).objects}
    assert len(ids) == 30
    broker.abandon()
    copy = Path(shutil.copytree(spool, tmp_path / "copy"))
    uuid = good("spool", "stat", "--json", copy).document["uuid"]
    assert all(id.startswith(f"{uuid}-") for id in ids.values())

    by_tool = kafka.new_topic()
    good("spool", "replay", "--kafka", kafka.bootstrap, "--topic", topic, "--set", f"route=later/# {by_tool}", copy)
    seen = _as_sent(read_topic(kafka.bootstrap, by_tool))
    assert sorted(seen) == ["later/0", "later/1", "later/2"]
    assert sum(len(records) for records in seen.values()) == 30
    kafka.create_topic(missing)
    broker.start()
    assert _as_sent(wait_records(kafka.bootstrap, missing, 30)) == seen


def test_replay_tells_what_kafka_refuses(
    kafka: Cluster, make_broker: MakeBroker, tmp_path: Path, kafka_port_of_nobody: int
) -> None:
    """A record that Kafka does not take is named and holds up no other; a Kafka topic that is missing, and a cluster
    that is away, are named too. Exit code 1."""
    spool = tmp_path / "spool"
    broker = make_broker({"kafka_broker": f"127.0.0.1:{kafka_port_of_nobody}", "spool_dir": spool}).start()
    messages: list[tuple[bytes | str, bytes]] = [("t", b"." * (5000 if i % 40 == 20 else 10)) for i in range(120)]
    mqtt.publish_all(broker.port, messages)
    broker.abandon()
    small = kafka.new_topic(1, {"max.message.bytes": "3000"})
    replay = tool("spool", "replay", "--kafka", kafka.bootstrap, "--topic", small, spool)
    assert replay.code == 1
    assert "delivered 117 records" in replay.out
    for seq in (21, 61, 101):
        assert f'record {seq} of MQTT topic "t" was refused: MSG_SIZE_TOO_LARGE' in replay.err
    ids = [r.seq for r in read_topic(kafka.bootstrap, small)]
    assert ids == [seq for seq in range(1, 121) if seq not in (21, 61, 101)]

    missing = tool("spool", "replay", "--kafka", kafka.bootstrap, "--topic", "is-not-there", spool)
    assert missing.code == 1
    assert "Kafka topic is-not-there takes no records: " in missing.err
    assert "delivered 0 records" in missing.out

    away = tool("spool", "replay", "--kafka", f"127.0.0.1:{kafka_port_of_nobody}", "--topic", "t", "--timeout=1", spool)
    assert away.code == 1
    assert "nothing was delivered" in away.err
    assert "--from 1" in away.err


def _damage(spool: Path, seq: int) -> tuple[str, int]:
    """Change a byte in the body of a record. Returns the file's name and the record's place."""
    for path in sorted(spool.glob("*.seg")):
        data = bytearray(path.read_bytes())
        salt = int(spool_format.header(bytes(data))["salt"], 16)
        for record in spool_format.records(bytes(data), salt):
            if record["seq"] == seq:
                data[record["offset"] + 41] ^= 0x10
                path.write_bytes(bytes(data))
                return path.name, record["offset"]
    raise AssertionError(f"no record {seq}")


@pytest.mark.parametrize("rewrite", [True, False])
def test_mends_a_damaged_spool(
    kafka: Cluster, make_broker: MakeBroker, tmp_path: Path, kafka_port_of_nobody: int, rewrite: bool
) -> None:
    """kill -9, and bytes of the files changed: verify names the place and what is lost, repair mends what can be
    mended, and a broker that starts then delivers all others."""
    spool = tmp_path / "spool"
    _publish_without_kafka(make_broker, spool, kafka_port_of_nobody, 150).kill()
    name, offset = _damage(spool, 77)
    # And the other places: a copy of a header, both slots of STATE.
    for file, places in ((name, [2048 + 30]), ("STATE", [100, 4096 + 100])):
        data = bytearray((spool / file).read_bytes())
        for place in places:
            data[place] ^= 0xFF
        (spool / file).write_bytes(bytes(data))

    verify = tool("spool", "verify", "--json", spool)
    assert verify.code == 1
    damages = [o for o in verify.objects if "damage" in o]
    assert {o["damage"] for o in damages} == {"bytes", "header_copy", "state_slot", "state"}
    (lost,) = (o for o in damages if o["damage"] == "bytes")
    assert (lost["file"], lost["offset"], lost["lost"], lost["first_lost"]) == (name, offset, 1, 77)
    assert "record 77 is lost" in tool("spool", "verify", spool).out
    dump = tool("spool", "dump", "--json", spool)
    assert dump.code == 1
    assert [o["seq"] for o in dump.objects if "seq" in o] == [n for n in range(1, 151) if n != 77]

    before = {path: path.read_bytes() for path in spool.rglob("*") if path.is_file() and path.name != "LOCK"}
    assert tool("spool", "repair", "--dry-run", spool).code == 1
    assert {path: path.read_bytes() for path in before} == before
    if rewrite:
        repair = good("spool", "repair", "--rewrite", spool)
        assert "moved to bad/" in repair.out
        verdict = good("spool", "verify", "--json", spool).objects[-1]
        assert verdict["given_up"] == 1
        assert (spool / "bad" / name).exists()
    else:
        repair = tool("spool", "repair", spool)
        assert repair.code == 1, repair
        left = [o for o in tool("spool", "verify", "--json", spool).objects if "damage" in o]
        assert [o["damage"] for o in left] == ["bytes"]
    assert "STATE" in repair.out
    assert "one copy of the header was damaged" in repair.out

    topic = kafka.new_topic()
    broker = make_broker({"kafka_broker": kafka.bootstrap, "kafka_topic": topic, "spool_dir": spool}).start()
    in_use = tool("spool", "repair", spool)
    assert in_use.code == 1
    assert "in use" in in_use.err
    broker.health.wait_drained(30)
    records = read_topic(kafka.bootstrap, topic)
    assert [r.seq for r in records] == [n for n in range(1, 151) if n != 77]
    broker.stop()
    assert count_records(kafka.bootstrap, topic) == 149


def test_tells_of_a_segment_that_cannot_be_read(
    make_broker: MakeBroker, tmp_path: Path, kafka_port_of_nobody: int
) -> None:
    """Where both copies of a header are damaged, nobody takes what can be read for all that there was."""
    spool = tmp_path / "spool"
    _publish_without_kafka(make_broker, spool, kafka_port_of_nobody, 20).kill()
    (name,) = {o["file"] for o in good("spool", "dump", "--json", spool).objects}
    data = bytearray((spool / name).read_bytes())
    for place in (20, 2048 + 20):
        data[place] ^= 0xFF
    (spool / name).write_bytes(bytes(data))
    dump = tool("spool", "dump", "--json", spool)
    assert dump.code == 1
    assert [o["damage"] for o in dump.objects if o["file"] == name] == ["header"]
    replay = tool("spool", "replay", "--dry-run", spool)
    assert replay.code == 1
    assert "would send 0 records" in replay.out
    assert name in replay.err


@pytest.mark.parametrize("name", ["parked", "dead"])
def test_tells_what_is_no_directory(name: str, tmp_path: Path) -> None:
    """Where a log below the spool should be is something else: nobody says that all is well, nor mends the rest."""
    (tmp_path / "LOCK").touch()
    assert "nothing is wrong" in good("spool", "verify", tmp_path).out
    (tmp_path / name).write_text("no directory")
    verify = tool("spool", "verify", tmp_path)
    assert verify.code == 1
    assert "not all of it could be read" in verify.out
    for command in ("ls", "stat", "verify", "repair"):
        outcome = tool("spool", command, tmp_path)
        assert outcome.code == 1, command
        assert f"{tmp_path / name}" in outcome.err, command
    letters = tool("dead", "ls", tmp_path)
    assert letters.code == (1 if name == "dead" else 0)
    assert ("cannot be opened as a directory" in letters.err) == (name == "dead")


@pytest.mark.parametrize(
    ("args", "word"),
    [
        ([], "usage:"),
        (["lost"], "unknown command"),
        (["ls"], "expected the directory"),
        (["ls", "a", "b"], "one directory only"),
        (["ls", "--all", "a"], "does not know"),
        (["ls", "--json=1", "a"], "does not know"),
        (["dump", "--from", "x", "a"], "a number from 1"),
        (["dump", "--from", "9", "--to", "8", "a"], "behind --to"),
        (["dump", "--limit"], "expected N"),
        (["dump", "--topic", "a/#/b", "a"], "--topic"),
        (["replay", "a"], "--kafka and --topic"),
        (["replay", "--kafka", "h", "--topic", "t", "--set", "nonsense", "a"], "NAME=VALUE"),
        (["replay", "--kafka", "h", "--topic", "t", "--set", "kafka_tpic=x", "a"], "kafka_topic"),
        (["replay", "--kafka", "h", "--topic", "t", "--timeout", "0", "a"], "seconds"),
    ],
)
def test_tells_wrong_use(args: list[str], word: str) -> None:
    outcome = tool("spool", *args)
    assert outcome.code == 2, outcome
    assert word in outcome.err


@pytest.mark.parametrize("command", ["ls", "stat", "verify", "dump", "replay", "repair"])
def test_explains_itself(command: str, tmp_path: Path) -> None:
    assert command in good("spool", "--help").out
    text = good("spool", command, "--help").out
    assert f"usage: metamorphosis spool {command}" in text
    assert "Exit codes: 0 good" in text
    more = ["--kafka", "h:1", "--topic", "t"] if command == "replay" else []
    for directory in (tmp_path / "none", tmp_path):
        outcome = tool("spool", command, *more, directory)
        assert outcome.code == 1
        assert str(directory) in outcome.err
    assert list(tmp_path.iterdir()) == []
