"""Dead letters in the directory of a spool: they outlive the broker, and the tool lists, shows and redrives them."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import shutil
import stat
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from conftest import MakeBroker
from harness import mqtt
from harness.broker import Broker, preloaded
from harness.consumer import Record, read_topic
from harness.kafka import Cluster, unique
from harness.metrics import Metrics
from harness.tool import tool_binary

_TEST = Path(__file__).resolve().parents[1]

_LIMIT = 3000  # bytes, of a topic's records
_POISONS = [b"%d " % n + os.urandom(4000 + n) for n in range(5)]


@dataclass(frozen=True)
class Done:
    code: int
    out: bytes
    err: str

    @property
    def objects(self) -> list[dict[str, object]]:
        """One JSON object a line."""
        return [json.loads(line) for line in self.out.splitlines()]


def _environment() -> dict[str, str]:
    """Of the tool: under a sanitizer, what the broker gets, too."""
    env = dict(os.environ)
    if preloaded():
        env["LD_PRELOAD"] = preloaded()
        for name in ("LSAN", "TSAN"):
            file = _TEST / f"{name.lower()}.supp"
            env[f"{name}_OPTIONS"] = f"{env.get(f'{name}_OPTIONS', '')}:suppressions={file}:print_suppressions=0"
    return env


def _dead(*args: str | Path, timeout: float = 60) -> Done:
    """Run `metamorphosis dead`."""
    tool = tool_binary()
    done = subprocess.run(
        [tool, "dead", *args],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env=_environment(),
        timeout=timeout,
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr.decode())


@dataclass
class Scene:
    """A broker whose spool holds five dead letters, and the topic that did not take them."""

    kafka: Cluster
    broker: Broker
    topic: str
    spool: Path

    def letters(self) -> list[dict[str, object]]:
        """What the plugin shows, oldest first."""
        found: list[dict[str, object]] = json.loads(self.broker.health.request("/dead").text)
        return found

    def ids(self) -> list[str]:
        return [str(letter["id"]) for letter in self.letters()]

    def large_records(self, topic: str | None = None) -> list[Record]:
        return [r for r in read_topic(self.kafka.bootstrap, topic or self.topic) if len(r.value) > _LIMIT]

    def redrive(self, directory: Path, *args: str, timeout: float = 60) -> Done:
        return _dead("redrive", "--kafka", self.kafka.bootstrap, *args, directory, timeout=timeout)


MakeScene = Callable[[], Scene]


@pytest.fixture
def make_scene(kafka: Cluster, make_broker: MakeBroker, tmp_path: Path) -> MakeScene:
    def make() -> Scene:
        topic = kafka.new_topic(config={"max.message.bytes": str(_LIMIT)})
        spool = tmp_path / "spool"
        broker = make_broker({"kafka_broker": kafka.bootstrap, "kafka_topic": topic, "spool_dir": str(spool)}).start()
        messages: list[tuple[bytes | str, bytes]] = []
        for n, poison in enumerate(_POISONS):
            messages += [(f"good/{n}", b"good"), (f"bad/{n % 2}", poison)]
        mqtt.publish_all(broker.port, messages)
        metrics = broker.health.wait_drained(30)
        assert metrics.dead_lettered == len(_POISONS)
        return Scene(kafka, broker, topic, spool)

    return make


def _payloads(records: list[Record]) -> list[bytes]:
    return sorted(record.payload for record in records)


def test_they_outlive_the_broker(make_scene: MakeScene) -> None:
    """An orderly stop, then kill -9: after each the same letters are listed with their payloads, and nothing is
    delivered or counted twice."""
    scene = make_scene()
    before = scene.letters()
    assert [letter["payload_bytes"] for letter in before] == [len(poison) for poison in _POISONS]
    for end in (scene.broker.stop, scene.broker.kill):
        end()
        scene.broker.start()
        assert scene.letters() == before
        for letter, poison in zip(before, _POISONS, strict=True):
            assert scene.broker.health.request(f"/dead/{letter['id']}").body == poison
        metrics = scene.broker.health.wait_drained(20)
        assert metrics.dead_lettered == len(_POISONS)
        assert metrics.delivered == len(_POISONS)
    assert len(read_topic(scene.kafka.bootstrap, scene.topic)) == len(_POISONS)


def test_a_letter_more_after_the_restart(make_scene: MakeScene) -> None:
    """The log goes on where it was."""
    scene = make_scene()
    scene.broker.kill()
    scene.broker.start()
    mqtt.publish_all(scene.broker.port, [("bad/late", _POISONS[0] * 2)])
    scene.broker.health.wait_for(lambda m: m.dead_lettered == 6, 20, "one more dead letter")
    letters = scene.letters()
    assert [letter["mqtt_topic"] for letter in letters][4:] == ["bad/0", "bad/late"]
    assert len(set(scene.ids())) == 6
    assert scene.broker.health.request(f"/dead/{letters[5]['id']}").body == _POISONS[0] * 2


def test_ls_and_dump_of_a_live_spool_and_of_copies(make_scene: MakeScene, tmp_path: Path) -> None:
    """The tool shows the same as the plugin, whichever directory it is given, and changes nothing."""
    scene = make_scene()
    expected = [letter | {"redriven": False} for letter in scene.letters()]
    copy = tmp_path / "copy"
    shutil.copytree(scene.spool, copy)
    other = tmp_path / "letters"
    shutil.copytree(scene.spool / "dead", other)
    before = sorted(path.name for path in (scene.spool / "dead").iterdir())
    for directory in (scene.spool, scene.spool / "dead", copy, other):
        listed = _dead("ls", "--json", directory)
        assert (listed.code, listed.err) == (0, "")
        assert listed.objects == expected
        table = _dead("ls", directory)
        assert (table.code, table.err) == (0, "")
        lines = table.out.decode().splitlines()
        assert lines[0].split()[0] == "ID" and lines[-1] == "5 dead letters, 0 redriven"
        for line, letter in zip(lines[1:-1], expected, strict=True):
            assert line.split()[0] == letter["id"]
            for field in ("mqtt_topic", "kafka_topic", "error", "payload_bytes"):
                assert str(letter[field]) in line.split()
        for letter, poison in zip(expected, _POISONS, strict=True):
            assert _dead("dump", directory, str(letter["id"])) == Done(0, poison, "")
        dumped = _dead("dump", "--json", "--all", directory)
        assert dumped.code == 0
        assert [base64.b64decode(str(o["payload"]), validate=True) for o in dumped.objects] == _POISONS
    assert sorted(path.name for path in (scene.spool / "dead").iterdir()) == before


def test_ls_of_a_log_that_changes(kafka: Cluster, make_broker: MakeBroker, tmp_path: Path) -> None:
    """While letters come and older ones make room for them, whoever looks sees sound letters and no damage."""
    topic = kafka.new_topic(config={"max.message.bytes": str(_LIMIT)})
    options = {"kafka_broker": kafka.bootstrap, "kafka_topic": topic, "spool_dir": str(tmp_path / "spool")}
    broker = make_broker(options | {"dead_letter_max_bytes": "256k", "spool_sync": "never"}).start()
    n = 80
    mqtt.publish_all(broker.port, [(f"bad/{number}", os.urandom(16000)) for number in range(n)])
    seen: set[str] = set()
    looks = 0
    while broker.health.scrape().dead_lettered < n:
        done = _dead("ls", "--json", tmp_path / "spool")
        assert (done.code, done.err) == (0, "")
        topics = [int(str(o["mqtt_topic"]).removeprefix("bad/")) for o in done.objects]
        assert topics == sorted(topics)
        seen |= {str(o["id"]) for o in done.objects}
        looks += 1
    held = len(json.loads(broker.health.request("/dead").text))
    assert held < n / 4 < len(seen)
    assert looks > 3
    assert len(_dead("ls", "--json", tmp_path / "spool").objects) == held


def test_redrive_lands_exactly_once(make_scene: MakeScene) -> None:
    """Once the topic takes them: each letter arrives as the plugin would have sent it, once however often it is asked
    for; --again sends it again. The broker runs on, and a restart changes nothing."""
    scene = make_scene()
    letters = scene.letters()
    scene.kafka.change_topic(scene.topic, {"max.message.bytes": "1000000"})

    dry = scene.redrive(scene.spool, "--dry-run")
    assert dry.code == 0 and all(str(letter["id"]) in dry.out.decode() for letter in letters)
    assert scene.large_records() == []
    assert not (scene.spool / "dead" / "redriven").exists()

    (first,) = scene.redrive(scene.spool, "--id", str(letters[2]["id"])).out.splitlines()
    assert first == b"delivered 1 dead letter"
    (record,) = scene.large_records()
    assert record.payload == _POISONS[2]
    everything = scene.redrive(scene.spool)
    assert (everything.code, everything.err) == (0, "")
    assert everything.out == b"delivered 4 dead letters, 1 sent again before\n"
    nothing = scene.redrive(scene.spool)
    assert (nothing.code, nothing.out) == (0, b"delivered 0 dead letters, 5 sent again before\n")

    records = {record.mm_id: record for record in scene.large_records()}
    assert len(scene.large_records()) == len(records) == 5
    for letter, poison in zip(letters, _POISONS, strict=True):
        record = records[str(letter["id"])]
        assert record.payload == poison
        assert record.key == str(letter["mqtt_topic"]).encode()
        assert record.fields == {"Topic": letter["mqtt_topic"], "Content": base64.b64encode(poison).decode()}
        assert [name for name, _ in record.headers] == ["mm-id"]
        received = str(letter["received"])
        assert received.endswith(f".{record.timestamp_ms % 1000:03}Z")
    noted = scene.spool / "dead" / "redriven"
    assert sorted(noted.read_text().split()) == sorted(str(letter["id"]) for letter in letters)
    assert stat.S_IMODE(noted.stat().st_mode) == 0o600
    assert all(o["redriven"] is True for o in _dead("ls", "--json", scene.spool).objects)

    again = scene.redrive(scene.spool, "--again", "--id", str(letters[0]["id"]))
    assert again.out == b"delivered 1 dead letter\n"
    assert len(scene.large_records()) == 6

    scene.broker.stop()
    scene.broker.start()
    assert scene.letters() == letters
    assert all(o["redriven"] is True for o in _dead("ls", "--json", scene.spool).objects)
    mqtt.publish_all(scene.broker.port, [("good/last", b"good")])
    scene.broker.health.wait_drained(20)
    assert len(read_topic(scene.kafka.bootstrap, scene.topic)) == 5 + 6 + 1


def test_redrive_of_a_copy(make_scene: MakeScene, tmp_path: Path) -> None:
    """To another topic, as the payloads alone, with the broker gone: the copy is noted, the original is not."""
    scene = make_scene()
    copy = tmp_path / "copy"
    shutil.copytree(scene.spool, copy)
    scene.broker.kill()
    other = scene.kafka.new_topic()
    done = scene.redrive(copy, "--topic", other, "--format=raw")
    assert (done.code, done.out) == (0, b"delivered 5 dead letters\n")
    records = read_topic(scene.kafka.bootstrap, other)
    assert sorted(record.value for record in records) == sorted(_POISONS)
    assert scene.large_records() == []
    assert (copy / "dead" / "redriven").exists()
    assert not (scene.spool / "dead" / "redriven").exists()


def test_one_that_is_refused_again_holds_up_no_other(make_scene: MakeScene) -> None:
    """The topic takes some letters now: those arrive; the others are named, are not noted, and stay."""
    scene = make_scene()
    big = os.urandom(20000)
    mqtt.publish_all(scene.broker.port, [("bad/big", big)])
    scene.broker.health.wait_for(lambda m: m.dead_lettered == 6, 20, "one more dead letter")
    scene.kafka.change_topic(scene.topic, {"max.message.bytes": "9000"})
    done = scene.redrive(scene.spool)
    assert done.code == 1
    assert done.out == b"delivered 5 dead letters, 1 not taken by Kafka\n"
    late = scene.ids()[5]
    assert late in done.err and "MSG_SIZE_TOO_LARGE" in done.err
    assert _payloads(scene.large_records()) == sorted(_POISONS)
    assert late not in (scene.spool / "dead" / "redriven").read_text()
    scene.kafka.change_topic(scene.topic, {"max.message.bytes": "1000000"})
    assert scene.redrive(scene.spool).out == b"delivered 1 dead letter, 5 sent again before\n"
    assert _payloads(scene.large_records()) == sorted([*_POISONS, big])


def test_two_redrives_do_not_run_at_once(make_scene: MakeScene) -> None:
    scene = make_scene()
    scene.kafka.change_topic(scene.topic, {"max.message.bytes": "1000000"})
    noted = scene.spool / "dead" / "redriven"
    with noted.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        done = scene.redrive(scene.spool)
        assert done.code == 1
        assert "another redrive is at work" in done.err
        assert scene.large_records() == []
    assert scene.redrive(scene.spool).code == 0
    assert len(scene.large_records()) == 5


def test_a_note_that_was_cut_off_does_not_count(make_scene: MakeScene) -> None:
    """A redrive was killed while it wrote: the half line is no id, though it looks like one."""
    scene = make_scene()
    scene.kafka.change_topic(scene.topic, {"max.message.bytes": "1000000"})
    ids = scene.ids()
    noted = scene.spool / "dead" / "redriven"
    noted.write_text(f"{ids[0]}\n{ids[1]}")
    done = scene.redrive(scene.spool)
    assert (done.code, done.out) == (0, b"delivered 4 dead letters, 1 sent again before\n")
    assert sorted(noted.read_text().split()) == sorted(ids)
    assert noted.read_text().endswith("\n")


def test_kafka_is_away(make_scene: MakeScene, kafka_port_of_nobody: int) -> None:
    scene = make_scene()
    done = _dead(
        *("redrive", "--kafka", f"127.0.0.1:{kafka_port_of_nobody}", "--timeout", "1"), scene.spool, timeout=30
    )
    assert done.code == 1
    assert "no answer from Kafka" in done.err and "refused" in done.err
    assert (scene.spool / "dead" / "redriven").read_text() == ""


def test_a_topic_that_is_not_there(make_scene: MakeScene) -> None:
    """Kafka's answer counts for all letters of the topic: it is not waited for five times."""
    scene = make_scene()
    setting = "--rdkafka.topic.metadata.propagation.max.ms=500"
    done = scene.redrive(scene.spool, "--topic", "there-is-no-such-topic", setting, timeout=40)
    assert done.code == 1
    assert done.out == b"delivered 0 dead letters, 5 not taken by Kafka\n"
    assert done.err.count("there-is-no-such-topic") == 5


def test_damage_is_told(make_scene: MakeScene, tmp_path: Path) -> None:
    """A byte of a letter is wrong: the other four are listed and sent, the exit code says that there is something."""
    scene = make_scene()
    scene.broker.stop()
    segments = sorted((scene.spool / "dead").glob("*.seg"))
    (place,) = [(path, at) for path in segments if (at := path.read_bytes().find(_POISONS[3])) >= 0]
    path, at = place
    data = bytearray(path.read_bytes())
    data[at + 100] ^= 1
    path.write_bytes(data)
    listed = _dead("ls", "--json", scene.spool)
    assert listed.code == 1
    assert path.name in listed.err
    assert [o["payload_bytes"] for o in listed.objects] == [len(p) for n, p in enumerate(_POISONS) if n != 3]
    scene.kafka.change_topic(scene.topic, {"max.message.bytes": "1000000"})
    done = scene.redrive(scene.spool)
    assert (done.code, done.out) == (1, b"delivered 4 dead letters\n")
    assert len(scene.large_records()) == 4


_COPIES = "metamorphosis_dead_letter_copies_total"
_COPIES_FAILED = "metamorphosis_dead_letter_copies_failed_total"


def test_copies_in_a_kafka_topic(kafka: Cluster, make_broker: MakeBroker, tmp_path: Path) -> None:
    """dead_letter_topic: what the topic's limit refuses is in the dead-letter log, and a copy of it in that topic: what
    the record would have been, with four headers. A restart copies nothing again, and the counter goes on."""
    topic = kafka.new_topic(config={"max.message.bytes": str(_LIMIT)})
    copies = kafka.new_topic()
    spool = tmp_path / "spool"
    options = {"kafka_broker": kafka.bootstrap, "kafka_topic": topic, "dead_letter_topic": copies}
    broker = make_broker(options | {"spool_dir": str(spool)}).start()
    messages: list[tuple[bytes | str, bytes]] = []
    for n, poison in enumerate(_POISONS):
        messages += [(f"good/{n}", b"good"), (f"bad/{n % 2}", poison)]
    mqtt.publish_all(broker.port, messages)
    broker.health.wait_for(lambda m: m.get(_COPIES) == len(_POISONS), 30, "all copies")
    metrics = broker.health.wait_drained(10)
    assert (metrics.delivered, metrics.dead_lettered, metrics.get(_COPIES_FAILED)) == (5, 5, 0)

    letters = _dead("ls", "--json", spool).objects
    records = {record.mm_id: record for record in read_topic(kafka.bootstrap, copies)}
    assert list(records) == [str(letter["id"]) for letter in letters]
    for letter, poison in zip(letters, _POISONS, strict=True):
        record = records[str(letter["id"])]
        assert record.key == str(letter["mqtt_topic"]).encode()
        assert record.fields == {"Topic": letter["mqtt_topic"], "Content": base64.b64encode(poison).decode()}
        assert dict(record.headers) == {
            "mm-id": str(letter["id"]).encode(),
            "mm-error": b"MSG_SIZE_TOO_LARGE",
            "mm-reason": str(letter["reason"]).encode(),
            "mm-kafka-topic": topic.encode(),
        }
        assert len(record.headers) == 4
        assert str(letter["received"]).endswith(f".{record.timestamp_ms % 1000:03}Z")
    assert len(read_topic(kafka.bootstrap, topic)) == 5

    broker.stop()
    broker.start()
    mqtt.publish_all(broker.port, [("bad/late", _POISONS[0])])
    broker.health.wait_for(lambda m: m.get(_COPIES) == 6, 20, "one more copy")
    assert len(read_topic(kafka.bootstrap, copies)) == 6


@pytest.mark.parametrize("limit", [None, _LIMIT], ids=["no such topic", "too large for it, too"])
def test_copies_that_fail(kafka: Cluster, make_broker: MakeBroker, tmp_path: Path, limit: int | None) -> None:
    """They are counted and told, once for them all; the letters are in the dead-letter log and nowhere twice, and all
    else flows. Once the reason is gone, the next letter is copied."""
    topic = kafka.new_topic(config={"max.message.bytes": str(_LIMIT)})
    copies = unique("copies") if limit is None else kafka.new_topic(config={"max.message.bytes": str(limit)})
    spool = tmp_path / "spool"
    options = {"kafka_broker": kafka.bootstrap, "kafka_topic": topic, "dead_letter_topic": copies}
    options |= {"rdkafka.topic.metadata.propagation.max.ms": "500", "rdkafka.topic.metadata.refresh.interval.ms": "500"}
    broker = make_broker(options | {"spool_dir": str(spool)}).start()
    messages: list[tuple[bytes | str, bytes]] = [("bad", poison) for poison in _POISONS]
    messages += [("good", b"%d" % n) for n in range(100)]
    mqtt.publish_all(broker.port, messages)
    broker.health.wait_for(lambda m: m.get(_COPIES_FAILED) == len(_POISONS), 30, "all copies have failed")
    metrics = broker.health.wait_drained(10)
    assert (metrics.delivered, metrics.dead_lettered, metrics.get(_COPIES)) == (100, 5, 0)
    assert [o["payload_bytes"] for o in _dead("ls", "--json", spool).objects] == [len(poison) for poison in _POISONS]
    (line,) = broker.wait_log("the copy of a dead letter for Kafka topic")
    assert copies in line and ("UNKNOWN_TOPIC" if limit is None else "MSG_SIZE_TOO_LARGE") in line

    if limit is None:
        kafka.create_topic(copies)
    else:
        kafka.change_topic(copies, {"max.message.bytes": "1000000"})
    before = 0.0

    def another_was_copied(metrics: Metrics) -> bool:
        nonlocal before
        if metrics.get(_COPIES) > 0:
            return True
        if metrics.get(_COPIES_FAILED) > before:  # Kafka and its client learn it a little later
            before = metrics.get(_COPIES_FAILED)
            mqtt.publish_all(broker.port, [("bad", b"late".ljust(4000))])
        return False

    broker.health.wait_for(another_was_copied, 20, "a copy")
    assert {record.payload for record in read_topic(kafka.bootstrap, copies)} == {b"late".ljust(4000)}
    assert len(read_topic(kafka.bootstrap, topic)) == 100


def test_evicted_letters_are_counted_over_a_restart(kafka: Cluster, make_broker: MakeBroker, tmp_path: Path) -> None:
    """/metrics has the figure from the start on, not only from the next letter."""
    topic = kafka.new_topic(config={"max.message.bytes": str(_LIMIT)})
    options = {"kafka_broker": kafka.bootstrap, "kafka_topic": topic, "spool_dir": str(tmp_path / "spool")}
    broker = make_broker(options | {"dead_letter_max_bytes": "256k", "spool_sync": "never"}).start()
    mqtt.publish_all(broker.port, [("bad", os.urandom(20000)) for _ in range(30)])
    evicted = broker.health.wait_drained(30).get("metamorphosis_dead_letters_evicted_total")
    assert evicted > 0
    broker.stop()
    broker.start()
    assert broker.health.scrape().get("metamorphosis_dead_letters_evicted_total") == evicted


def test_wrong_use(make_scene: MakeScene, tmp_path: Path) -> None:
    """2 for what was asked wrongly, 1 for what is not there."""
    scene = make_scene()
    known = scene.ids()[0]
    for args in (
        [],
        ["list", scene.spool],
        ["ls"],
        ["ls", "--jsn", scene.spool],
        ["ls", scene.spool, scene.spool],
        ["dump", scene.spool],
        ["dump", "--all", scene.spool, known],
        ["dump", scene.spool, "not an id"],
        ["redrive", scene.spool],
        ["redrive", "--kafka", "localhost", "--timeout", "0", scene.spool],
        ["redrive", "--kafka", "localhost", "--format", "xml", scene.spool],
        ["redrive", "--kafka", "localhost", "--topic", "not/a/topic", scene.spool],
        ["redrive", "--kafka", "localhost", "--rdkafka.acks=1", scene.spool],
        ["redrive", scene.spool, "--kafka"],
    ):
        done = _dead(*args)
        assert done.code == 2, args
        assert done.out == b"" and "usage: metamorphosis dead" in done.err, args
    (tmp_path / "empty").mkdir()
    for args in (
        ["ls", tmp_path / "empty"],
        ["ls", tmp_path / "none"],
        ["dump", scene.spool, "01234567-89ab-4cde-8f01-23456789abcd-1"],
        ["redrive", "--dry-run", "--id", "01234567-89ab-4cde-8f01-23456789abcd-1", scene.spool],
    ):
        done = _dead(*args)
        assert done.code == 1, args
        assert done.err.startswith("metamorphosis: "), args
    for args in (["--help"], ["-h"], ["ls", "--help"], ["dump", "-h"], ["redrive", "--kafka", "localhost", "--help"]):
        assert _dead(*args).code == 0, args
        assert b"usage: metamorphosis dead" in _dead(*args).out, args
