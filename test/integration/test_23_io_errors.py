"""The disk reports errors, is slow, or no file can be opened: nothing acknowledged is lost, the broker goes on, and
what happened is counted and told. The errors are made by strace."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from conftest import MakeBroker
from harness import mqtt
from harness.audit import audit_topics
from harness.broker import sanitized
from harness.kafka import Cluster, Kafka
from harness.load import Load, streams
from harness.loadgen import loadgen
from harness.metrics import PREFIX, Metrics
from harness.faults import Faults, injected, launcher
from harness.wait import wait_until

_SYNC = "fdatasync,msync,fsync"


_FILES = 96  # that a broker may have open; it needs about 30


@dataclass(frozen=True)
class _Fault:
    calls: str
    fault: str
    options: Sequence[tuple[str, str]] = ()
    on: Sequence[str] = ()  # only on these files of the spool, by their names without a directory
    refused: bool = False  # are publishers of QoS 1 and 2 refused meanwhile?
    degraded: bool = False
    told: str = "full"  # a part of a log line
    killed: bool = False  # is the broker killed while the fault lasts?


_SMALL = [("spool_max_bytes", "2M")]
_SEGMENTS = [f"{n:016x}.seg" for n in range(300)]
_FAULTS = {
    "a sync fails once": _Fault(_SYNC, "error=EIO:when=1", degraded=True, told="sync failed"),
    "no sync succeeds": _Fault(_SYNC, "error=EIO", degraded=True, told="sync failed"),
    "no sync succeeds, spool_sync always": _Fault(
        _SYNC,
        "error=EIO",
        [("spool_sync", "always")],
        degraded=True,
        refused=True,
        told="sync failed",
    ),
    "no sync succeeds, pwrite": _Fault(
        _SYNC, "error=EIO", [("spool_writer", "pwrite")], degraded=True, told="sync failed"
    ),
    "no space for segments": _Fault("fallocate", "error=ENOSPC", _SMALL, refused=True),
    "quota is used up": _Fault("fallocate", "error=EDQUOT", _SMALL, refused=True),
    "segments cannot be reserved": _Fault("fallocate", "error=EIO", _SMALL, refused=True, told="Input/output error"),
    "segments cannot be made": _Fault(
        "openat", "error=EIO", _SMALL, _SEGMENTS, refused=True, told="Input/output error"
    ),
    "too many open files": _Fault(
        "openat",
        "error=EMFILE",
        _SMALL,
        _SEGMENTS,
        refused=True,
        told="Too many open files",
    ),
    "segments cannot be mapped": _Fault(
        "mmap", "error=ENOMEM", _SMALL, refused=True, told="Cannot allocate memory|full"
    ),
    "STATE cannot be written": _Fault("pwrite64", "error=EIO", on=["STATE"], told="STATE", killed=True),
    "nothing can be written": _Fault("pwrite64", "error=EIO", _SMALL, refused=True, told="Input/output error"),
    "records cannot be written": _Fault(
        "pwrite64",
        "error=EIO",
        [("spool_writer", "pwrite")],
        refused=True,
        told="Input/output error",
    ),
    "records find no space": _Fault("pwrite64", "error=ENOSPC", [("spool_writer", "pwrite")], refused=True),
    "every other record cannot be written": _Fault(
        "pwrite64",
        "error=EIO:when=1+2",
        [("spool_writer", "pwrite")],
        refused=True,
        told="Input/output error",
    ),
    "segments cannot be deleted": _Fault("unlink,unlinkat", "error=EIO", _SMALL, told="Input/output error"),
}


def _errors(metrics: Metrics) -> float:
    return metrics.total(PREFIX + "spool_io_errors_total")


def _degraded(metrics: Metrics) -> bool:
    return metrics.get(PREFIX + "spool_degraded") == 1


@pytest.mark.parametrize("name", _FAULTS)
def test_io_error(
    kafka: Cluster,
    make_broker: MakeBroker,
    seconds: Callable[[float, float], float],
    figure: Callable[[str], None],
    tmp_path: Path,
    name: str,
) -> None:
    """A call on the spool's files fails, once or as long as the fault lasts, under load: the broker goes on, counts and
    tells it; publishers are refused without an acknowledgement where a message cannot be kept as promised, and only
    there; within 1 s of the end of the fault all is as before. Then the broker is killed and started again: every
    message is in Kafka, in order."""
    fault = _FAULTS[name]
    spool = tmp_path / "spool"
    topic = kafka.new_topic()
    broker = make_broker(
        [
            ("kafka_broker", kafka.bootstrap),
            ("kafka_topic", topic),
            ("spool_dir", spool),
            ("spool_min_free", "0"),
            ("spool_sync_interval_ms", "50"),
            *fault.options,
        ]
    ).start()
    pid = broker.pid
    kinds = [*streams(2, "one", rate=250, size=1000), *streams(1, "two", rate=250, qos=2, version=5, size=1000)]
    with Load(broker.port, kinds) as load:
        wait_until(lambda: min(load.acked_at().values()) > 0, 10, "the load flows")
        before = broker.health.scrape()
        assert _errors(before) == 0 and not _degraded(before)
        with Faults(
            tmp_path,
            pid,
            fault.calls,
            fault.fault,
            paths=[path for name in fault.on for path in (spool / name, Path(name))],
        ) as faults:
            wait_until(lambda: faults.n > 0, 20, "the fault happens")
            if fault.refused:
                broker.health.wait_for(lambda m: m.refused > 3, 10, "publishers are refused")
            if fault.degraded:
                broker.health.wait_for(lambda m: _degraded(m) or "once" in name, 10, "the spool is degraded")
            time.sleep(seconds(0.5, 20))
            with mqtt.Client(broker.port) as client:
                assert client.ping() < 1
            during = broker.health.scrape()
            n_faults = faults.n
            if fault.killed:
                broker.kill()
                broker.start()
        ended = time.monotonic()
        wait_until(lambda: min(load.acked_at().values()) > ended, 10, "all publishers go on", interval=0.005)
        went_on = max(load.acked_at().values()) - ended
        time.sleep(0.3)
        broker.health.wait_for(lambda m: not _degraded(m), 5, "the spool is well again")
        assert (during.refused > 0) == fault.refused, during.ledger()
        assert load.n_closed == 0 or fault.refused or fault.killed
        assert _errors(during) > 0 or fault.told == "full"
        broker.wait_log(f"metamorphosis: .*({fault.told})")
        assert broker.running and (broker.pid == pid or fault.killed)
        n_refused = broker.health.scrape().refused
        broker.kill()
        broker.start()
        load.finish(10)
    broker.health.wait_drained(20)
    audit = audit_topics(kafka.bootstrap, topic, load.books)
    figure(f"{n_faults} faults, {n_refused:.0f} refused, went on after {went_on:.2f} s; {audit}")
    audit.check(repeated_ids=None)
    assert audit.repeated_payloads <= load.n_resent
    assert went_on <= 1.0
    if "deleted" in name:
        broker.stop()
        broker.start()
        assert broker.health.check_ledger_quiet().in_spool == 0
        assert audit_topics(kafka.bootstrap, topic, load.books).n_records == audit.n_records


@pytest.mark.parametrize("lasting", [False, True], ids=["for two seconds", "for ever"])
def test_backlog_cannot_be_read(
    pausable: Kafka,
    make_broker: MakeBroker,
    figure: Callable[[str], None],
    tmp_path: Path,
    lasting: bool,
) -> None:
    """Kafka comes back, and the disk does not give the backlog back: what it gives later is delivered, in order; a
    place that it never gives back is given up after some time and its messages are counted, the others arrive."""
    topic = pausable.new_topic()
    pausable.pause()
    spool = tmp_path / "spool"
    # Eight megabytes are in the Kafka client's window.
    broker = make_broker(
        {
            "kafka_broker": pausable.bootstrap,
            "kafka_topic": topic,
            "spool_dir": spool,
            "spool_max_bytes": "64M",
            "max_message_bytes": 100_000,
        }  # fmt: skip
    ).start()
    with Load(broker.port, streams(4, "a", rate=None, size=8000)) as load:
        wait_until(lambda: load.n_acked >= 6000, 30, "48 MB are stored")
        load.finish(10)
    segments = sorted(spool.glob("*.seg"))
    assert len(segments) >= 5
    broken = [segments[-3]] if lasting else []
    n_acked = load.n_acked
    with Faults(tmp_path, broker.pid, "pread64", "error=EIO", paths=broken) as faults:
        pausable.resume()
        if lasting:
            metrics = broker.health.wait_for(lambda m: m.in_spool == 0, 30, "the rest is delivered")
        else:
            wait_until(lambda: faults.n > 0, 20, "the fault happens")
            time.sleep(2)
            assert broker.health.scrape().in_spool > 0
        n_faults = faults.n
    metrics = broker.health.wait_drained(60)
    assert _errors(metrics) > 0
    n_lost = metrics.get(PREFIX + "messages_dropped_total", reason="lost") + metrics.dead_lettered
    audit = audit_topics(pausable.bootstrap, topic, load.books)
    missing = audit.missing()
    figure(f"{n_faults} faults; {n_lost:.0f} of {n_acked} counted as lost; {audit}")
    assert n_faults <= 20_000, "it is tried again without a pause"
    assert len(missing) == n_lost
    assert (n_lost > 0) == lasting
    assert n_lost <= 1100, "more than one segment was given up"
    assert not [problem for problem in audit.problems if "was due" not in problem], audit.problems
    assert audit.repeated_ids == audit.repeated_payloads == 0
    broker.wait_log("metamorphosis: .*(Input/output error|cannot be read)")


def _quantile(metrics: Metrics, q: float) -> float:
    """Upper bound of the bucket of the callback's histogram in which this share ends, seconds."""
    name = PREFIX + "callback_duration_seconds_bucket"
    buckets = sorted((float(bound), count) for bound, count in metrics.labelled(name, "le").items())
    return next(bound for bound, count in buckets if count >= q * buckets[-1][1])


def test_slow_disk(kafka: Cluster, make_broker: MakeBroker, figure: Callable[[str], None], tmp_path: Path) -> None:
    """Each sync takes 300 ms, one after the other: the broker's thread does not wait for any, neither half of the
    messages nor one in a thousand."""
    results: dict[str, tuple[float, float, float]] = {}
    for name in ("quick", "slow"):
        traced = tmp_path / f"{name}.out"
        delay = 300_000 if name == "slow" else 0
        broker = make_broker(
            {
                "kafka_broker": kafka.bootstrap,
                "kafka_topic": kafka.new_topic(),
                "spool_dir": tmp_path / name,
                "spool_sync_interval_ms": 20,
            },
            launcher=launcher(traced, "fdatasync,msync", f"delay_enter={delay}"),
            leak_check=False,
        ).start()
        report = loadgen(broker.port, messages=45_000, qos=1, rate=15_000, size=100, topics=8)
        metrics = broker.health.wait_drained(20)
        assert injected(traced) >= 5
        results[name] = (_quantile(metrics, 0.5), _quantile(metrics, 0.999), report["latency_us"]["p99.9"] / 1e6)
        figure(
            f"{name}: {injected(traced)} syncs; callback p50 <= {results[name][0] * 1e9:.0f} ns, "
            f"p99.9 <= {results[name][1] * 1e6:.1f} us; PUBACK p99.9 {results[name][2] * 1e3:.1f} ms"
        )
        broker.stop()
    if not sanitized():
        assert results["slow"][0] <= 1e-6
        assert results["slow"][1] <= max(2e-3, 4 * results["quick"][1])


def test_no_file_descriptors(
    kafka: Cluster,
    make_broker: MakeBroker,
    seconds: Callable[[float, float], float],
    figure: Callable[[str], None],
    tmp_path: Path,
) -> None:
    """ulimit -n is used up by clients: messages are taken as long as segments can be made, and refused when not; when
    the clients leave all goes on, nothing is lost."""
    topic = kafka.new_topic()
    broker = make_broker(
        {
            "kafka_broker": kafka.bootstrap,
            "kafka_topic": topic,
            "spool_dir": tmp_path / "spool",
            "spool_max_bytes": "2M",
        },
        launcher=["prlimit", f"--nofile={_FILES}:{_FILES}"],
    ).start()
    with contextlib.ExitStack() as idle, Load(broker.port, streams(3, "a", rate=250, size=1000)) as load:
        wait_until(lambda: min(load.acked_at().values()) > 0, 10, "the load flows")
        for _ in range(_FILES):
            idle.enter_context(socket.create_connection(("127.0.0.1", broker.port)))
        wait_until(lambda: broker.n_fds() == _FILES, 10, "the file descriptors are used up", interval=0.001)
        n_full, end = 0, time.monotonic() + seconds(3, 60)
        while time.monotonic() < end:
            # What becomes free is for us.
            idle.enter_context(socket.create_connection(("127.0.0.1", broker.port)))
            n_full += broker.n_fds() >= _FILES - 1
            time.sleep(0.01)
        assert broker.running
        assert n_full > 20
        idle.close()
        ended = time.monotonic()
        wait_until(lambda: min(load.acked_at().values()) > ended, 10, "all publishers go on")
        load.finish(20)
    metrics = broker.health.wait_drained(20)
    audit = audit_topics(kafka.bootstrap, topic, load.books)
    figure(f"no descriptor left {n_full} times; {metrics.refused:.0f} refused; {audit}")
    audit.check()


@pytest.mark.parametrize("n", range(1, 4))
def test_threads_cannot_be_made(kafka: Cluster, make_broker: MakeBroker, tmp_path: Path, n: int) -> None:
    """The n-th thread cannot be made at start: the broker does not start, says why, and leaves nothing that would
    hinder the next start."""
    traced = tmp_path / "strace.out"
    options = {"kafka_broker": kafka.bootstrap, "kafka_topic": kafka.new_topic(), "spool_dir": tmp_path / "spool"}
    broker = make_broker(options, launcher=launcher(traced, "clone,clone3", f"error=EAGAIN:when={n}"), leak_check=False)
    code, log = broker.run_refused()
    assert injected(traced) == 1
    assert code > 0
    assert [line for line in log.splitlines() if "metamorphosis: " in line and "Resource temporarily" in line], log
    second = make_broker(options).start()
    mqtt.publish_all(second.port, [("a", b"x")])
    second.health.wait_drained(10)
