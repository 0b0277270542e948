"""Starts and stops with a spool on disk: what is found is told and delivered; a start that cannot be says why."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from conftest import MakeBroker, MakeDisk
from harness import mqtt, ports
from harness.audit import audit_topics
from harness.broker import Broker
from harness.kafka import Cluster, Kafka
from harness.load import Book, Load, streams
from harness.metrics import PREFIX, Metrics
from harness.spool import records_in, segments, set_version, sha

_KIB = 1024
_NOBODY = "nobody"


def _publish(port: int, n: int, prefix: str, n_topics: int = 5, size: int = 500, qos: int = 1) -> dict[str, Book]:
    """n messages, each acknowledged; their books."""
    books = {f"{prefix}/{t}": Book(prefix, qos, size) for t in range(n_topics)}
    with mqtt.Client(port, prefix) as client:
        for i in range(n):
            topic, book = list(books.items())[i % n_topics]
            payload = f"{topic} {book.n_sent} {prefix} ".encode().ljust(size, b".")
            client.send(mqtt.publish(topic, payload, qos, client.next_id()))
            book.n_sent += 1
            book.acked.append(1)
        for _ in range(n if qos else 0):
            assert client.receive().type == mqtt.Type.PUBACK
        client.ping()
    return books


def _n(books: Mapping[str, Book]) -> int:
    return sum(book.n_sent for book in books.values())


# --- what a start tells ---


@pytest.mark.parametrize("end", ["killed", "stopped"])
def test_start_tells_what_it_found(kafka: Cluster, make_broker: MakeBroker, tmp_path: Path, end: str) -> None:
    """After an outage of Kafka the broker ends, by SIGKILL or in order: the next start says in one line how many
    messages wait, how many bytes they take and how old the oldest is, and all of them arrive, once each, with the same
    id as before; an empty spool is told as such."""
    topic = kafka.new_topic()
    broker = make_broker({"kafka_broker": f"127.0.0.1:{ports.free_port()}", "kafka_topic": topic,
                          "spool_dir": tmp_path / "spool"}).start()  # fmt: skip
    books = _publish(broker.port, 700, "a")
    published = time.monotonic()
    time.sleep(2.1)
    if end == "killed":
        broker.kill()
    else:
        stopped = broker.stop()
        assert stopped.seconds <= 10
    broker.change(kafka_broker=kafka.bootstrap)
    broker.start()
    age = time.monotonic() - published
    (line,) = broker.wait_log(r"metamorphosis: .*found 700 messages")
    (n_bytes,), (n_seconds,) = (map(int, re.findall(pattern, line)) for pattern in (r"(\d+) bytes", r"(\d+) s ago"))
    assert 700 * 500 <= n_bytes <= 700 * 700, line
    assert 2 <= n_seconds <= age + 2, line
    assert str(tmp_path / "spool") in line
    metrics = broker.health.wait_drained(20)
    assert metrics.received == metrics.delivered == 700
    audit_topics(kafka.bootstrap, topic, books).check(repeated_payloads=0)
    broker.stop()
    broker.start()
    broker.wait_log(r"metamorphosis: .*found 0 messages")


def test_in_order_restarts_repeat_nothing(
    kafka: Cluster, make_broker: MakeBroker, tmp_path: Path, figure: Callable[[str], None]
) -> None:
    """Stopped in order under load and started again, several times: no message is in Kafka twice by the plugin's
    doing, none is missing, and the counters go on where they were."""
    topic = kafka.new_topic(2)
    broker = make_broker(
        {"kafka_broker": kafka.bootstrap, "kafka_topic": topic, "spool_dir": tmp_path / "spool", "kafka_workers": 2}
    ).start()
    with Load(broker.port, streams(4, "a", rate=500)) as load:
        for workers in range(1, 5):
            time.sleep(0.5)
            broker.stop()
            broker.change(kafka_workers=workers).start()
        time.sleep(0.3)
        load.finish(10)
        metrics = broker.health.wait_drained(10)
    audit = audit_topics(kafka.bootstrap, topic, load.books)
    figure(f"{audit}; {load.n_resent} sent again by publishers")
    audit.check(repeated_ids=0)
    assert audit.repeated_payloads <= load.n_resent
    assert metrics.delivered == metrics.received == audit.n_records
    assert len(audit.uuids) == 1


@pytest.mark.parametrize("end", ["killed", "stopped"])
def test_counters_go_on(
    pausable: Kafka, make_broker: MakeBroker, tmp_path: Path, end: str, figure: Callable[[str], None]
) -> None:
    """received, delivered, refused, dropped, dead letters and what is in the spool: after a SIGKILL and after a stop in
    order the counters go on where they were, their difference is 0 whenever quiet, and they agree with Kafka."""
    topic = pausable.new_topic(1, {"max.message.bytes": "20000"})
    options = {
        "kafka_broker": pausable.bootstrap,
        "kafka_topic": topic,
        "spool_dir": tmp_path / "spool",
        "spool_max_bytes": "512k",
        "kafka_retry_interval": 1,
    }
    broker = make_broker(options).start()

    def end_and_start() -> Metrics:
        before = broker.health.check_ledger_quiet()
        time.sleep(0.3)  # the counters are written ten times a second
        if end == "killed":
            broker.kill()
        else:
            broker.stop()
        broker.start()
        after = broker.health.check_ledger_quiet()
        assert after.ledger() == before.ledger()
        for name in ("messages_refused_total", "messages_dropped_total", "messages_dead_lettered_total"):
            assert after.labelled(PREFIX + name, "reason") == before.labelled(PREFIX + name, "reason")
        return after

    n = _n(_publish(broker.port, 300, "calm"))
    mqtt.publish_all(broker.port, [("poison", os.urandom(30_000))])
    broker.health.wait_drained(20)
    metrics = end_and_start()
    assert (metrics.delivered, metrics.dead_lettered) == (n, 1)

    pausable.pause()
    n += _n(_publish(broker.port, 200, "away"))
    _publish(broker.port, 3000, "flood", qos=0)
    # QoS 0 leaves the last segment to the others.
    with mqtt.Client(broker.port) as client, contextlib.suppress(mqtt.Closed):
        for _ in range(2000):
            client.publish("refused", b"x" * 500, 1)
            n += 1
        raise AssertionError("the spool is never full")
    metrics = end_and_start()
    assert metrics.refused == 1 and metrics.dropped > 0
    assert metrics.received == n + 1 + 3000 + 1

    pausable.resume()
    metrics = broker.health.wait_drained(30)
    assert metrics.delivered == n + 3000 - metrics.dropped
    metrics = end_and_start()
    figure(metrics.ledger())


def test_workers_and_routes_may_change(
    kafka: Cluster, make_broker: MakeBroker, tmp_path: Path, kafka_port_of_nobody: int
) -> None:
    """A backlog that was stored with one worker and one Kafka topic is delivered by four workers and by the routes that
    stand in the settings now; then by two and by others again, with a part of it finished in between."""
    first, second, third = (kafka.new_topic(2) for _ in range(3))
    away = f"127.0.0.1:{kafka_port_of_nobody}"
    broker = make_broker({"kafka_broker": away, "kafka_topic": first, "spool_dir": tmp_path / "spool"}).start()
    books = _publish(broker.port, 600, "plant", 12) | _publish(broker.port, 600, "office", 12)
    broker.kill()
    broker.change(kafka_broker=kafka.bootstrap, kafka_workers=4, route=f"plant/+ {second}").start()
    broker.health.wait_drained(20)
    broker.change(kafka_broker=away, kafka_workers=2, route=f"+/1,+/2 {third}")
    broker.stop()
    broker.start()
    more = _publish(broker.port, 600, "hall", 12)
    broker.stop()
    broker.change(kafka_broker=kafka.bootstrap, kafka_workers=3).start()
    metrics = broker.health.wait_drained(20)
    assert metrics.delivered == 1800

    def at(*wanted: str) -> dict[str, Book]:
        return {topic: book for topic, book in (books | more).items() if topic.startswith(wanted)}

    others = [topic for topic in more if topic not in ("hall/1", "hall/2")]
    audit_topics(kafka.bootstrap, first, at("office", *(f"{t}" for t in others))).check(repeated_payloads=0)
    audit_topics(kafka.bootstrap, second, at("plant")).check(repeated_payloads=0)
    audit_topics(kafka.bootstrap, third, {t: more[t] for t in ("hall/1", "hall/2")}).check(repeated_payloads=0)


# --- who may have the directory ---


def test_second_broker_is_refused(
    kafka: Cluster, make_broker: MakeBroker, tmp_path: Path, seconds: Callable[[float, float], float]
) -> None:
    """Many tries of a second broker on one directory: each is refused by a line with the directory, and the process and
    the host that have it; the first does not notice. When the first is killed the next one has the directory."""
    directory = tmp_path / "spool"
    topic = kafka.new_topic()
    options = {"kafka_broker": kafka.bootstrap, "kafka_topic": topic, "spool_dir": directory}
    first = make_broker(options).start()
    with Load(first.port, streams(2, "a", rate=500)) as load:
        for _ in range(int(seconds(6, 100))):
            n_acked = load.n_acked
            code, log = make_broker(options).run_refused()
            assert code > 0
            (line,) = [line for line in log.splitlines() if "in use" in line]
            assert str(directory) in line and socket.gethostname() in line, line
            assert re.search(rf"\b{first.pid}\b", line), line
            assert load.n_acked > n_acked
        load.finish(10)
        assert load.n_closed == 0
    first.health.wait_drained(10)
    first.kill()
    second = make_broker(options).start()
    books = _publish(second.port, 10, "b")
    second.health.wait_drained(10)
    audit_topics(kafka.bootstrap, topic, load.books | books).check(repeated_ids=load.n_acked)


@pytest.fixture
def open_path() -> Iterator[Path]:
    """A directory that other users can get to."""
    path = Path(tempfile.mkdtemp(prefix="metamorphosis-test-"))
    path.chmod(0o755)
    try:
        yield path
    finally:
        shutil.rmtree(path)


@dataclass
class _Bad:
    reason: str
    of: str  # what the line names, below the directory of the test


@pytest.mark.parametrize(
    ("trouble", "expected"),
    {
        "no parent": _Bad("No such file or directory", "no/such"),
        "a file": _Bad("expected a directory", "file"),
        "below a file": _Bad("Not a directory", "file/spool"),
        "no permission to make it": _Bad("Permission denied", "roots/spool"),
        "no permission to use it": _Bad("Permission denied", "roots"),
        "read-only": _Bad("Read-only file system", "disk/spool"),
        "a file of it belongs to another": _Bad("Permission denied", "mine"),
    }.items(),
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_unusable_directory(
    make_disk: MakeDisk, make_broker: MakeBroker, open_path: Path, trouble: str, expected: _Bad
) -> None:
    """A directory that is not there, is none, or may not be used: the broker does not start, its exit code says so, and
    a line has the path and the reason."""
    assert os.getuid() == 0, "this test becomes another user and mounts a disk: run it as root"
    (open_path / "file").touch()
    roots = open_path / "roots"
    roots.mkdir(mode=0o755)
    if trouble == "read-only":
        disk = make_disk(1024 * _KIB, read_only=True)
        (open_path / "disk").symlink_to(disk.directory)
    mine = open_path / "mine"
    mine.mkdir(mode=0o700)
    shutil.chown(mine, _NOBODY)
    if trouble == "a file of it belongs to another":
        (mine / "LOCK").touch(mode=0o600)
    user = _NOBODY if expected.reason == "Permission denied" else "root"
    broker = make_broker({"spool_dir": open_path / expected.of}, user=user)
    shutil.chown(broker.directory, user)
    code, log = broker.run_refused()
    assert code > 0
    path = str(open_path / expected.of)
    assert [line for line in log.splitlines() if path in line and expected.reason in line], log
    assert not (open_path / "no").exists()


def test_modes_and_owner(kafka: Cluster, make_broker: MakeBroker, open_path: Path) -> None:
    """As another user than root, under whatever umask: directories 0700, files 0600, all of that user; messages come
    through, and the next start as the same user finds what was left."""
    assert os.getuid() == 0, "this test becomes another user: run it as root"
    home = open_path / "home"
    home.mkdir()
    shutil.chown(home, _NOBODY)
    topic = kafka.new_topic(1, {"max.message.bytes": "20000"})
    missing = f"{topic}-missing"
    options = [
        ("kafka_broker", kafka.bootstrap),
        ("kafka_topic", topic),
        ("route", f"missing/# {missing}"),
        ("spool_dir", home / "spool"),
        ("kafka_retry_interval", 1),
        ("rdkafka.topic.metadata.propagation.max.ms", 300),
    ]
    broker = make_broker(options, user=_NOBODY, launcher=["sh", "-c", 'umask 000; exec "$@"', "sh"])
    shutil.chown(broker.directory, _NOBODY)
    broker.start()
    books = _publish(broker.port, 100, "a")
    mqtt.publish_all(broker.port, [("poison", os.urandom(30_000)), ("missing/1", b"x")])
    broker.health.wait_for(lambda m: m.dead_lettered == 1 and m.in_spool == 1, 20, "one dead, one parked")
    broker.kill()
    broker.start()
    books |= _publish(broker.port, 100, "b")
    broker.health.wait_for(
        lambda m: m.delivered == 200 and m.in_spool == m.get(PREFIX + "parked_messages") == 1,
        20,
        "all but one delivered",
    )
    found = {path.relative_to(home): path.stat() for path in home.rglob("*")}
    owner = shutil._get_uid(_NOBODY)  # type: ignore[attr-defined]
    for path, stat in found.items():
        wanted = 0o40700 if (home / path).is_dir() else 0o100600
        assert (oct(stat.st_mode), stat.st_uid) == (oct(wanted), owner), path
    names = {str(path) for path in found}
    assert {"spool", "spool/LOCK", "spool/STATE", "spool/dead", f"spool/parked/{missing}"} <= names, names
    audit_topics(kafka.bootstrap, topic, books).check(repeated_ids=100)
    broker.abandon()


# --- files that somebody else touched ---


@dataclass
class _Backlog:
    directory: Path
    books: dict[str, Book]


@pytest.fixture(scope="module")
def backlog(tmp_path_factory: pytest.TempPathFactory) -> _Backlog:
    """A spool of ten segments or more that a broker left when it was killed; to be copied."""
    base = tmp_path_factory.mktemp("backlog")
    options = {
        "kafka_broker": f"127.0.0.1:{ports.free_port()}",
        "spool_dir": str(base / "spool"),
        "spool_max_bytes": "4M",
    }
    broker = Broker(base / "broker", options).start()
    books = _publish(broker.port, 2500, "a", size=1000)
    time.sleep(0.3)
    broker.kill()
    assert len(segments(base / "spool")) >= 5
    return _Backlog(base / "spool", books)


def _used(directory: Path) -> list[Path]:
    return [path for path in segments(directory) if records_in(path)]


def _cut(path: Path, share: float) -> None:
    os.truncate(path, int(path.stat().st_size * share))


def _append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(os.urandom(100_000))


def _overwrite(path: Path, at: int, n: int, byte: bytes = b"\xa5") -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(byte * n)


# What is done to the directory; whether messages may be missing afterwards, and whether some may come twice.
_DAMAGE: dict[str, tuple[Callable[[Path], object], bool]] = {
    "last segment cut": (lambda d: os.truncate(_used(d)[-1], 10_000), True),
    "middle segment cut": (lambda d: _cut(_used(d)[2], 0.5), True),
    "first segment cut to nothing": (lambda d: _cut(_used(d)[0], 0), True),
    "segment deleted": (lambda d: _used(d)[1].unlink(), True),
    "first segment deleted": (lambda d: _used(d)[0].unlink(), True),
    "last segment deleted": (lambda d: _used(d)[-1].unlink(), True),
    "garbage behind a segment": (lambda d: _append(_used(d)[1]), False),
    "garbage behind the last segment": (lambda d: _append(_used(d)[-1]), False),
    "garbage in the middle": (lambda d: _overwrite(_used(d)[1], 100_000, 5000), True),
    "both headers spoilt": (lambda d: _overwrite(_used(d)[1], 0, 2048 + 128), True),
    "one header spoilt": (lambda d: _overwrite(_used(d)[1], 0, 128), False),
    "seal spoilt": (lambda d: _overwrite(_used(d)[1], 1024, 64), False),
    "STATE deleted": (lambda d: (d / "STATE").unlink(), False),
    "STATE emptied": (lambda d: _cut(d / "STATE", 0), False),
    "STATE cut": (lambda d: _cut(d / "STATE", 0.6), False),
    "STATE zeroed": (lambda d: _overwrite(d / "STATE", 0, 8192, b"\0"), False),
    "STATE garbage": (lambda d: _overwrite(d / "STATE", 0, 8192), False),
    "first slot of STATE spoilt": (lambda d: _overwrite(d / "STATE", 0, 4096), False),
    "second slot of STATE spoilt": (lambda d: _overwrite(d / "STATE", 4096, 4096), False),
    "LOCK deleted": (lambda d: (d / "LOCK").unlink(), False),
    "strangers' files": (
        lambda d: [
            (d / name).write_bytes(b"x" * 9000)
            for name in ("README", "zz.seg", "0000000000000000.seg", "ffffffffffffffff.seg", "0001.seg", "STATE.bak")
        ],
        False,
    ),  # fmt: skip
}


@pytest.mark.parametrize("damage", _DAMAGE)
def test_damaged_by_hand(
    kafka: Cluster,
    make_broker: MakeBroker,
    backlog: _Backlog,
    tmp_path: Path,
    damage: str,
    figure: Callable[[str], None],
) -> None:
    """Segments cut, deleted, overwritten and lengthened, STATE lost or spoilt, strangers' files: the broker starts,
    what is sound arrives, in order, once; what is not is counted, and new messages flow as ever."""
    harm, may_lose = _DAMAGE[damage]
    directory = tmp_path / "spool"
    shutil.copytree(backlog.directory, directory)
    harm(directory)
    topic = kafka.new_topic()
    broker = make_broker(
        {"kafka_broker": kafka.bootstrap, "kafka_topic": topic, "spool_dir": directory, "spool_max_bytes": "4M"}
    ).start()
    books = _publish(broker.port, 500, "b")
    metrics = broker.health.wait_drained(20)
    n_lost = metrics.get(PREFIX + "messages_dropped_total", reason="lost")
    audit = audit_topics(kafka.bootstrap, topic, backlog.books | books)
    missing = audit.missing()
    figure(f"{len(missing)} messages missing, {n_lost:.0f} counted; {audit}")
    assert not [problem for problem in audit.problems if "was due" not in problem], audit.problems
    assert not [topic for topic, _ in missing if topic in books], "new messages are missing"
    assert audit.repeated_ids == audit.repeated_payloads == 0
    assert bool(missing) == may_lose
    assert n_lost == len(missing)
    if missing:
        broker.wait_log(r"metamorphosis: .*lost")
    broker.stop()
    before = audit.n_records
    broker.start()
    broker.health.wait_drained(10)
    assert audit_topics(kafka.bootstrap, topic, backlog.books | books).n_records == before


@pytest.mark.parametrize("file", ["segment", "STATE"])
def test_newer_version_is_refused(make_broker: MakeBroker, backlog: _Backlog, tmp_path: Path, file: str) -> None:
    """A spool of a version that this plugin does not know: refused, with the file and the version in the line, and not
    a byte of it is changed."""
    directory = tmp_path / "spool"
    shutil.copytree(backlog.directory, directory)
    path = _used(directory)[1] if file == "segment" else directory / "STATE"
    set_version(path, 77)
    before = sha(directory)
    code, log = make_broker({"spool_dir": directory, "spool_max_bytes": "4M"}).run_refused()
    assert code > 0
    assert [line for line in log.splitlines() if path.stem in line and "version 77" in line], log
    after = sha(directory)
    before.pop("LOCK", None)
    after.pop("LOCK", None)
    assert after == before
