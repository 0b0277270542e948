"""Fixtures: a shared Kafka, Kafkas of one's own, brokers with the plugin.

MM_TEST_KAFKA=host:port      a cluster for the tests that neither stop nor configure it; they make topics in it
MM_TEST_KAFKA_ONLY=1         leaves out all other tests
MM_TEST_KAFKA_VERSION=3.9.1  another version of the Apache Kafka that the tests start
MM_TEST_MOSQUITTO=path       the broker, otherwise mosquitto from the PATH
MM_TEST_PLUGIN=path          the plugin, otherwise the one of the release preset
MM_TEST_PRELOAD=libraries    preloaded into the broker: the run-time library of a sanitizer
MM_TEST_LONG=1               outages of 30 s and more, a thousand kills, 2 GiB of backlog, instead of a few
MM_TEST_PASSED=file          names what has passed: those tests are left out, and more are added, so that a run that was
                             stopped goes on
MM_TEST_SOAK=seconds         how long test_71_soak.py goes on, in its long form an hour
MM_TEST_SEED=number          of the random tests, to see a run again that they have printed
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from harness import ports, processes
from harness.broker import Broker
from harness.disk import SmallDisk
from harness.kafka import Cluster, Kafka
from harness.secure import SecureKafka

_LONGEST_TEST = 240  # seconds, of one test in its short form; five times that in its long form
_figures = pytest.StashKey[list[str]]()
_failed = pytest.StashKey[bool]()
_n_before = pytest.StashKey[int]()


def long_form() -> bool:
    return os.environ.get("MM_TEST_LONG", "") not in ("", "0")


@pytest.fixture(scope="session")
def seconds() -> Callable[[float, float], float]:
    """seconds(short, long): a duration of the form that runs."""
    return lambda short, long: long if long_form() else short


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The shared cluster. Tests make topics of their own in it, and never stop it."""
    external = os.environ.get("MM_TEST_KAFKA")
    if external:
        cluster = Cluster(external)
        assert cluster.answers(), f"no Kafka answers at MM_TEST_KAFKA={external}"
        yield cluster
        return
    with _started(tmp_path_factory.mktemp("shared-kafka")) as node:
        yield node


@pytest.fixture(scope="session")
def apache_kafka(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    """The shared cluster, for tests of what only Apache Kafka does, or of its tools; with MM_TEST_KAFKA another one."""
    if not os.environ.get("MM_TEST_KAFKA"):
        yield request.getfixturevalue("kafka")
        return
    with _started(tmp_path_factory.mktemp("apache-kafka")) as node:
        yield node


@contextlib.contextmanager
def _started(directory: Path) -> Iterator[Kafka]:
    node = Kafka(directory)
    try:
        node.start()
        yield node
    finally:
        node.close()


@pytest.fixture(scope="session")
def _second_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    with _started(tmp_path_factory.mktemp("second-kafka")) as node:
        yield node


@pytest.fixture
def pausable(_second_kafka: Kafka) -> Iterator[Kafka]:
    """A node that tests may pause, and no more: it is shared by them, one after the other."""
    try:
        yield _second_kafka
    finally:
        _second_kafka.resume()


@pytest.fixture
def kafka_port_of_nobody() -> int:
    """A port on which no Kafka will ever answer."""
    return ports.free_port()


MakeKafka = Callable[..., Kafka]
MakeBroker = Callable[..., Broker]


@pytest.fixture
def make_kafka(tmp_path: Path) -> Iterator[MakeKafka]:
    """make_kafka(properties): a node of this test's own, not started."""
    with contextlib.ExitStack() as stack:
        count = 0

        def make(properties: dict[str, str] | None = None) -> Kafka:
            nonlocal count
            count += 1
            node = Kafka(tmp_path / f"kafka-{count}", properties)
            stack.callback(node.close)
            return node

        yield make


MakeSecureKafka = Callable[..., SecureKafka]


@pytest.fixture
def make_secure_kafka(tmp_path: Path) -> Iterator[MakeSecureKafka]:
    """make_secure_kafka(properties, acls=True, ...): a secured node of this test's own, not started; the arguments are
    SecureKafka's."""
    with contextlib.ExitStack() as stack:
        count = 0

        def make(*args: Any, **kwargs: Any) -> SecureKafka:
            nonlocal count
            count += 1
            node = SecureKafka(tmp_path / f"secure-kafka-{count}", *args, **kwargs)
            stack.callback(node.close)
            return node

        yield make


@pytest.fixture(scope="session")
def secure_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureKafka]:
    """A secured node, without ACLs, that tests share: they may make users and topics of their own in it, and change
    and stop nothing."""
    node = SecureKafka(tmp_path_factory.mktemp("shared-secure-kafka"))
    try:
        node.start()
        yield node
    finally:
        node.close()


MakeDisk = Callable[..., SmallDisk]


@pytest.fixture
def make_disk(tmp_path: Path) -> Iterator[MakeDisk]:
    """make_disk(size): a mounted file system of so many bytes, emptied and gone at the end of the test. To be asked for
    before make_broker, whose brokers must end first."""
    with contextlib.ExitStack() as stack:
        count = 0

        def make(size: int, **more: Any) -> SmallDisk:
            nonlocal count
            count += 1
            disk = SmallDisk(tmp_path / f"disk-{count}", size, **more)
            stack.callback(disk.close)
            return disk

        yield make


@pytest.fixture
def make_broker(tmp_path: Path) -> Iterator[MakeBroker]:
    """make_broker(options, ...): a broker, not started; the arguments are Broker's. It is stopped at the end of the
    test, and what it logged is shown when the test failed."""
    brokers: list[Broker] = []

    def make(*args: Any, **kwargs: Any) -> Broker:
        broker = Broker(tmp_path / f"broker-{len(brokers) + 1}", *args, **kwargs)
        brokers.append(broker)
        return broker

    yield make
    with contextlib.ExitStack() as stack:
        for broker in brokers:
            stack.callback(_show, broker)
            stack.callback(broker.close)


def _show(broker: Broker) -> None:
    log = broker.logs().splitlines()
    print(f"--- {broker.config} ---\n{broker.config.read_text()}--- its log ---")
    print("\n".join([*log[:200], "[...]", *log[-200:]] if len(log) > 400 else log))


@pytest.fixture
def figure(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """figure(text): a measurement, printed with the summary of the run."""

    def note(text: str) -> None:
        request.config.stash.setdefault(_figures, []).append(f"{request.node.nodeid}: {text}")

    return note


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    figures = config.stash.get(_figures, [])
    if figures:
        terminalreporter.section("figures")
        for line in figures:
            terminalreporter.write_line(line)


def _passed() -> Path | None:
    name = os.environ.get("MM_TEST_PASSED")
    return Path(name) if name else None


@pytest.hookimpl(trylast=True)  # of those that -k has left
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What needs no Kafka that is shared, and what has passed before, is told as deselected."""
    if os.environ.get("MM_TEST_KAFKA_ONLY", "") not in ("", "0"):
        others = [item for item in items if "kafka" not in getattr(item, "fixturenames", ())]
        items[:] = [item for item in items if "kafka" in getattr(item, "fixturenames", ())]
        config.hook.pytest_deselected(items=others)
    file = _passed()
    if file is None or not file.exists():
        return
    names = set(file.read_text().splitlines())
    before = [item for item in items if item.nodeid in names]
    items[:] = [item for item in items if item.nodeid not in names]
    config.stash[_n_before] = len(before)
    config.hook.pytest_deselected(items=before)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """That all has passed before is no failure."""
    if exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED and session.config.stash.get(_n_before, 0) > 0:
        session.exitstatus = pytest.ExitCode.OK


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Every test runs: one that is skipped has failed."""
    report = yield
    if report.skipped:
        report.outcome = "failed"
    if report.failed:
        item.stash[_failed] = True
    file = _passed()
    if file is not None and report.when == "teardown" and not item.stash.get(_failed, False):
        with file.open("a") as out:
            out.write(f"{item.nodeid}\n")
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    """No test hangs: after a time that none needs it is interrupted where it stands."""

    def too_long(_signal: int, _frame: FrameType | None) -> None:
        raise TimeoutError(f"{item.nodeid} runs for more than {limit} s")

    limit = _LONGEST_TEST * (5 if long_form() else 1)
    marker = item.get_closest_marker("limit")
    if marker is not None and long_form():
        limit = marker.kwargs["long"]
    before = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(limit)
    try:
        return (yield)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def pytest_unconfigure() -> None:
    processes.kill_all()
