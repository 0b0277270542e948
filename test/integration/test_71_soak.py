"""All troubles at once: a broker under load, to which whatever can happen does, in an order that a seed chooses.

It publishes little, so that it can go on for hours beside other work.
"""

from __future__ import annotations

import os
import random
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import isnan
from pathlib import Path

import pytest

from conftest import MakeBroker, MakeDisk, MakeSecureKafka
from harness.audit import audit_topics
from harness.broker import Broker, sanitized
from harness.disk import SmallDisk
from harness.faults import Faults
from harness.live import ConfigFile, MountedSecret, reload, reloads, wait_reloads
from harness.load import Load, streams
from harness.metrics import PREFIX
from harness.publisher import flood
from harness.secure import SecureKafka
from harness.wait import stays_true, wait_until

_MIB = 1 << 20
_CALM = 120.0  # seconds until all is well again, at most
_MORE_MEMORY = 12 * _MIB  # that a broker may take while it lives, beyond what it had when it was first calm
_MANY_FILES = 200  # that no broker of this test has open
_MORE_FILES = 4  # that it may have open then: Kafka's connections come and go

# What happens, and how often against the others.
_TROUBLES = {"kill": 4, "stop": 1, "freeze": 2, "cut": 1, "slow": 2, "fill": 2, "rotate": 2, "reload": 3}
_OUTLIVED = {trouble: n for trouble, n in _TROUBLES.items() if trouble not in ("kill", "stop")}

_SLOPE_S = 1200.0  # over less than this the growth of memory says nothing
_WARM_UP_S = 900.0  # the C library's heap comes to its size in ten minutes or so
_HOUR_S = 3600.0
_MAX_SLOPE = _MIB  # in an hour; over less time a single step of some pages is as steep
_WINDOW = 131_072  # messages until a worker has written to all of its window's memory once


@dataclass(frozen=True)
class Step:
    trouble: str
    lasts: float  # seconds, of what has an end of its own
    calm: float  # seconds behind it


def plan(troubles: dict[str, int], seed: int, seconds: float, longest: float) -> Iterator[Step]:
    """What happens, for so long. Each trouble comes once before any comes twice, and then at random."""
    rng = random.Random(seed)
    first = list(troubles)
    rng.shuffle(first)
    end = time.monotonic() + seconds
    while first or time.monotonic() < end:
        trouble = first.pop() if first else rng.choices(list(troubles), list(troubles.values()))[0]
        yield Step(trouble, rng.uniform(0.2, 1) * longest, rng.uniform(0, 1) * longest)


def _certificates(node: SecureKafka) -> dict[str, bytes]:
    """New ones for the broker."""
    issued = node.client_certificate()
    return {
        "ca.crt": node.authority.pem,
        "tls.crt": issued.certificate.read_bytes(),
        "tls.key": issued.key.read_bytes(),
    }


@dataclass
class Soak:
    broker: Broker
    node: SecureKafka
    disk: SmallDisk
    secret: MountedSecret
    settings: ConfigFile
    work: Path
    n: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_TROUBLES, 0))
    memory: list[int] = field(default_factory=list)  # of the present process, when it was calm
    times: list[float] = field(default_factory=list)  # when that was
    files: list[int] = field(default_factory=list)
    growth: int = 0  # bytes, the most of any process
    n_linger: int = 0

    def _ready(self) -> bool:
        return self.broker.health.status("/readyz") == 200

    def _up(self, up: bool) -> None:
        """For all workers."""
        self.broker.health.wait_for(
            lambda m: set(m.labelled(PREFIX + "kafka_up", "worker").values()) == {float(up)},
            _CALM,
            f"Kafka is {'' if up else 'not '}reached",
        )

    def _begin_life(self) -> None:
        self.memory.clear()
        self.times.clear()
        self.files.clear()
        self.broker.start()

    def kill(self, _lasts: float) -> None:
        self.broker.kill()
        self._begin_life()

    def stop(self, _lasts: float) -> None:
        assert self.broker.stop(30).seconds < 15
        self._begin_life()

    def freeze(self, lasts: float) -> None:
        """Kafka stands still: messages are taken as before."""
        self.node.pause()
        try:
            stays_true(self._ready, lasts, "ready while Kafka is frozen")
        finally:
            self.node.resume()

    def cut(self, lasts: float) -> None:
        """Kafka is killed, and comes again: that it is away shows, and messages are taken as before."""
        self.node.kill()
        self._up(False)
        stays_true(self._ready, lasts, "ready without Kafka")
        self.node.start()

    def slow(self, lasts: float) -> None:
        """Each sync takes long: nobody waits for it."""
        with Faults(self.work, self.broker.pid, "fdatasync,fsync,msync", "delay_enter=300000"):
            stays_true(self._ready, lasts, "ready on a slow disk")

    def fill(self, lasts: float) -> None:
        """Others take the disk: that shows, and it is over when they give it back."""
        self.disk.fill()
        try:
            self.broker.health.wait_status("/readyz", 503, 30)
            time.sleep(lasts)
            assert self.broker.health.status("/readyz") == 503
        finally:
            self.disk.release()
        self.broker.health.wait_status("/readyz", 200, 30)

    def rotate(self, _lasts: float) -> None:
        before = reloads(self.broker, "applied")
        self.secret.update(_certificates(self.node))
        wait_reloads(self.broker, "applied", before + 1, _CALM)

    def reload(self, _lasts: float) -> None:
        self.n_linger += 1
        self.settings.change(kafka_linger_ms=5 + self.n_linger % 20)
        reload(self.broker, "applied", _CALM)

    def do(self, step: Step) -> None:
        getattr(self, step.trouble)(step.lasts)
        self.n[step.trouble] += 1
        time.sleep(step.calm)
        self.calm_down()

    def calm_down(self) -> None:
        """All is well again: ready, Kafka is reached, little waits; and nothing has grown."""
        wait_until(self._ready, _CALM, "ready again")
        self._up(True)
        self.broker.health.wait_for(lambda m: m.in_spool < 500, _CALM, "the backlog is delivered")
        # With a newer librdkafka it takes a while until the producer before has closed all that it had.
        few = lambda: self.broker.n_fds() <= min(self.files, default=_MANY_FILES) + _MORE_FILES  # noqa: E731
        wait_until(few, _CALM, lambda: f"few open files; {self.broker.n_fds()}, and before {self.files}")
        self.memory.append(self.broker.rss())
        self.times.append(time.monotonic())
        self.files.append(self.broker.n_fds())
        self.growth = max(self.growth, self.memory[-1] - self.memory[0])
        assert sanitized() or self.growth < _MORE_MEMORY, f"resident memory: {self.memory}"

    def fill_windows(self) -> None:
        """Else the first pass through the windows looks like growth, for an hour: by messages of a Kafka topic of their
        own, and more than enough for each of the two workers."""
        for _ in range(4 * _WINDOW // 16_000):
            for topic in range(64):
                flood(self.broker.port, f"flood/{topic}", 250, 20)
            self.broker.health.wait_drained(60)

    def slope(self) -> float:
        """By how much the memory of the present process grows, bytes an hour, once it is warm. NaN: it is too young."""
        warm = [(t, n) for t, n in zip(self.times, self.memory, strict=True) if t - self.times[0] >= _WARM_UP_S]
        if not warm or warm[-1][0] - warm[0][0] < _SLOPE_S - _WARM_UP_S:
            return float("nan")
        return statistics.linear_regression([t / 3600 for t, _ in warm], [n for _, n in warm]).slope


@contextmanager
def _telling(seed: int, steps: list[Step]) -> Iterator[None]:
    """Whatever fails, what was done shows."""
    try:
        yield
    except BaseException:
        print(f"MM_TEST_SEED={seed}; " + " ".join(f"{s.trouble}({s.lasts:.1f})+{s.calm:.1f}" for s in steps))
        raise


@pytest.mark.limit(long=5400)
@pytest.mark.parametrize("troubles", [_TROUBLES, _OUTLIVED], ids=["with_kills", "one_process"])
def test_everything_happens(
    troubles: dict[str, int],
    make_disk: MakeDisk,
    make_secure_kafka: MakeSecureKafka,
    make_broker: MakeBroker,
    tmp_path: Path,
    seconds: Callable[[float, float], float],
    figure: Callable[[str], None],
) -> None:
    """Kill, stop, freeze, cut, slow, fill, rotate, reload, for MM_TEST_SOAK seconds (long: an hour): nothing is lost,
    all is in order, the ledger adds up, and memory and open files stay what they were. What outlives all of it shows
    whether memory grows slowly."""
    seed = int(os.environ.get("MM_TEST_SEED", "0")) or random.randrange(1, 10**9)
    length = float(os.environ.get("MM_TEST_SOAK", "0")) or seconds(5, 3600)
    print(f"MM_TEST_SEED={seed}")
    disk = make_disk(96 * _MIB)
    node = make_secure_kafka()
    node.start()
    topic = node.create_topic("soak", partitions=3)
    settings = ConfigFile(tmp_path / "settings.conf", kafka_linger_ms=5)
    secret = MountedSecret(tmp_path / "secret", _certificates(node))
    broker = make_broker(
        {
            "kafka_broker": node.address("mtls"),
            "kafka_topic": topic,
            "route": f"flood/# {node.create_topic('flood', partitions=3)}",
            "kafka_workers": "2",
            "kafka_security_protocol": "ssl",
            "kafka_tls_ca_file": secret.path("ca.crt"),
            "kafka_tls_cert_file": secret.path("tls.crt"),
            "kafka_tls_key_file": secret.path("tls.key"),
            "config_file": settings.path,
            "spool_dir": disk.directory / "spool",
            "spool_max_bytes": "32M",
            "spool_min_free": "8M",
        }
    ).start()
    soak = Soak(broker, node, disk, secret, settings, tmp_path)
    kinds = streams(3, "one", rate=20) + streams(1, "two", qos=2, rate=20)
    steps: list[Step] = []
    with _telling(seed, steps), Load(broker.port, kinds) as load:
        if length >= _SLOPE_S:
            soak.fill_windows()
        soak.calm_down()
        for step in plan(troubles, seed, length, seconds(1, 20)):
            steps.append(step)
            soak.do(step)
            load.alive()
        load.finish(60)
        broker.health.wait_drained(60)
        broker.health.check_ledger_quiet()
        audit = audit_topics(node.bootstrap, topic, load.books)
        audit.check(repeated_ids=None)
        assert load.n_acked == load.n_sent
    counts = ", ".join(f"{n} {trouble}" for trouble, n in soak.n.items() if n > 0)
    slope = soak.slope()
    if length >= _HOUR_S and not sanitized() and not isnan(slope):
        assert slope < _MAX_SLOPE, f"{slope} B an hour: {soak.memory} at {soak.times}"
    figure(
        f"seed {seed}, {len(steps)} troubles ({counts}): {load.n_acked} acknowledged, 0 lost; {audit}; "
        f"RSS +{soak.growth // 1024} KiB" + ("" if isnan(slope) else f", {slope / _MIB:+.2f} MiB an hour")
    )
