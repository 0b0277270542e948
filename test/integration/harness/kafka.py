"""A real Apache Kafka (KRaft, one node) on loopback.

The jars come from Maven by their coordinates (../kafka/pom.xml) into a cache that is shared by all runs and worktrees
of this user. With them are kept an archive of loaded classes, which brings a start from 5 s down to 2 s, and a
formatted, empty data directory, which each new node starts from.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, NewTopic

from harness import ports
from harness.processes import Child
from harness.wait import wait_until

_HERE = Path(__file__).resolve().parent.parent / "kafka"
_POM = _HERE / "pom.xml"
_LOG4J = _HERE / "log4j2.properties"

_STARTED = re.compile(r"^(\d+) \w+ .*Kafka Server started", re.MULTILINE)
_CLUSTER_ID = "bWV0YW1vcnBob3Npcy10ZQ"  # 16 bytes in base64url, any would do
_START_TIMEOUT = 90.0
_STOP_TIMEOUT = 30.0

# The serial collector and the first compiler only: starts soon, needs few threads and little memory.
_JVM = [
    "java",
    "-Xms64m",
    "-Xmx512m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-Djava.awt.headless=true",
    f"-Dlog4j2.configurationFile={_LOG4J}",
]

_PROPERTIES = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "inter.broker.listener.name": "PLAINTEXT",
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "1",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "1",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "group.initial.rebalance.delay.ms": "0",
    # A node that was killed may register again only when its old session has ended: 9 s by default.
    "broker.session.timeout.ms": "2000",
    "broker.heartbeat.interval.ms": "250",
    "auto.create.topics.enable": "false",
    "num.partitions": "1",
}


class Installation:
    """The cache: jars, class archive, formatted data directory."""

    def __init__(self, version: str | None = None) -> None:
        """version: another than that of MM_TEST_KAFKA_VERSION, or else the one in pom.xml."""
        pom = _POM.read_bytes()
        found = re.search(rb"<kafka\.version>([^<]+)<", pom)
        assert found is not None
        self.version = version or os.environ.get("MM_TEST_KAFKA_VERSION") or found[1].decode()
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        # The digest makes a changed list of jars another installation; an old run goes on with its own.
        digest = hashlib.sha256(pom).hexdigest()[:12]
        self.root = base / "metamorphosis-test" / f"kafka-{self.version}" / digest
        self.jars = self.root / "jars"
        self.archive = self.root / f"classes-{_java_id()}.jsa"
        self.formatted = self.root / "formatted"

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def java(self, *options: str) -> list[str]:
        """The command line up to the name of the class. An empty archive: this JVM makes none."""
        if not options and self.archive.exists() and self.archive.stat().st_size > 0:
            options = (f"-XX:SharedArchiveFile={self.archive}",)
        return [*_JVM, *options, "-cp", f"{self.jars}/*"]

    def prepare(self) -> None:
        """Fetch and make what is missing. Several processes may call this at once."""
        if self.formatted.exists() and self.archive.exists():
            return
        with self._lock():
            if not self.jars.exists():
                self._fetch()
            if not self.formatted.exists():
                self._format()
            if not self.archive.exists():
                self._make_archive()

    def _fetch(self) -> None:
        print(f"fetching the jars of Apache Kafka into {self.jars} (once)", flush=True)
        fresh = self.root / "jars.new"
        shutil.rmtree(fresh, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix="metamorphosis-maven-") as project:
            shutil.copy(_POM, project)
            done = subprocess.run(
                [
                    *("mvn", "-B", "-q", "-Dstyle.color=never", f"-Dkafka.version={self.version}"),
                    *("dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={fresh}"),
                ],
                cwd=project,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
            )
        assert done.returncode == 0, f"maven failed:\n{done.stdout}{done.stderr}"
        fresh.rename(self.jars)

    def _format(self) -> None:
        with tempfile.TemporaryDirectory(prefix="metamorphosis-kafka-") as name:
            work = Path(name)
            config = work / "server.properties"
            network = {
                "listeners": "PLAINTEXT://127.0.0.1:9092,CONTROLLER://127.0.0.1:9093",
                "controller.quorum.voters": "1@127.0.0.1:9093",
                "log.dirs": str(work / "data"),
            }
            config.write_text(_render(_PROPERTIES | network))
            done = subprocess.run(
                [*self.java(), "kafka.tools.StorageTool", "format", "-t", _CLUSTER_ID, "-c", str(config)],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, f"formatting failed:\n{done.stdout}{done.stderr}"
            fresh = self.root / "formatted.new"
            shutil.rmtree(fresh, ignore_errors=True)
            shutil.copytree(work / "data", fresh)
        fresh.rename(self.formatted)

    def _make_archive(self) -> None:
        """The JVM writes the archive when a node that was told to do so ends in order."""
        fresh = self.root / "classes.jsa.new"
        fresh.unlink(missing_ok=True)
        with tempfile.TemporaryDirectory(prefix="metamorphosis-kafka-") as name:
            node = Kafka(Path(name), installation=self, jvm_options=[f"-XX:ArchiveClassesAtExit={fresh}"])
            node.start()
            node.create_topic("t")
            node.stop()
            node.close()
        fresh.touch()
        fresh.rename(self.archive)


def _java_id() -> str:
    """Another JVM needs another archive."""
    found = shutil.which(_JVM[0])
    assert found is not None, "no java in the PATH: install openjdk-17-jre-headless (scripts/test.sh does)"
    real = Path(found).resolve()
    return hashlib.sha256(f"{real} {real.stat().st_mtime_ns}".encode()).hexdigest()[:12]


@cache
def installed(version: str | None = None) -> Installation:
    """The installation, ready for use."""
    installation = Installation(version)
    installation.prepare()
    return installation


def _render(properties: Mapping[str, str]) -> str:
    return "".join(f"{name}={value}\n" for name, value in properties.items())


class Cluster:
    """Any Kafka that can be reached: topics, and how to read from it."""

    replication = 1  # of a new topic

    def __init__(self, bootstrap: str) -> None:
        self.bootstrap = bootstrap
        self._admin_client: AdminClient | None = None

    def _admin(self) -> AdminClient:
        if self._admin_client is None:
            self._admin_client = AdminClient(
                {
                    "bootstrap.servers": self.bootstrap,
                    "reconnect.backoff.max.ms": 200,
                    "socket.timeout.ms": 10000,
                    "log_level": 0,  # in many tests the node is away: that is no news
                }
            )
        return self._admin_client

    def create_topic(self, name: str, partitions: int = 1, config: Mapping[str, str] | None = None) -> str:
        """Create a topic, wait until the cluster serves it, return its name."""
        topic = NewTopic(name, partitions, self.replication, config=dict(config or {}))
        self._admin().create_topics([topic], operation_timeout=20)[name].result(30)

        def served() -> bool:
            described = self._admin().list_topics(topic=name, timeout=10).topics[name]
            return (
                described.error is None
                and len(described.partitions) == partitions
                and all(p.leader >= 0 and len(p.isrs) == self.replication for p in described.partitions.values())
            )

        wait_until(served, 20, f"topic {name} has leaders")
        return name

    def new_topic(self, partitions: int = 1, config: Mapping[str, str] | None = None) -> str:
        """A topic that no other test has."""
        return self.create_topic(unique("t"), partitions, config)

    def delete_topic(self, name: str) -> None:
        self._admin().delete_topics([name], operation_timeout=20)[name].result(30)
        wait_until(lambda: not self.has_topic(name), 20, f"topic {name} is gone")

    def has_topic(self, name: str) -> bool:
        return name in self._admin().list_topics(timeout=10).topics

    def topic_config(self, name: str) -> dict[str, str]:
        """The settings of a topic, as the cluster describes them."""
        resource = ConfigResource(ConfigResource.Type.TOPIC, name)
        entries = self._admin().describe_configs([resource])[resource].result(30)
        return {key: entry.value for key, entry in entries.items()}

    def change_topic(self, name: str, config: Mapping[str, str]) -> None:
        """Set settings of a topic."""
        entries = [
            ConfigEntry(key, value, incremental_operation=AlterConfigOpType.SET) for key, value in config.items()
        ]
        resource = ConfigResource(ConfigResource.Type.TOPIC, name, incremental_configs=entries)
        self._admin().incremental_alter_configs([resource])[resource].result(30)

    def answers(self) -> bool:
        """Does a client get metadata now?"""
        try:
            self._admin().list_topics(timeout=2)
        except KafkaException as problem:
            if problem.args[0].code() in (KafkaError._TRANSPORT, KafkaError._TIMED_OUT, KafkaError._ALL_BROKERS_DOWN):
                return False
            raise
        return True


class Kafka(Cluster):
    """One node of our own, which may be stopped, killed and paused. It keeps its ports and data."""

    def __init__(
        self,
        directory: Path,
        properties: Mapping[str, str] | None = None,
        *,
        installation: Installation | None = None,
        jvm_options: Sequence[str] = (),
        node_id: int = 1,
    ) -> None:
        self.node_id = node_id
        self.port = ports.free_port()
        super().__init__(f"127.0.0.1:{self.port}")
        self.data = directory / "data"
        self.log = directory / "kafka.log"
        self._directory = directory
        self._installation = installation or installed()
        self._jvm_options = jvm_options
        self.controller_port = ports.free_port()
        self.properties = dict(properties or {})  # over the usual ones, from the next start on
        self._child: Child | None = None
        self._log_start = 0

    def add_way(self, advertised: Callable[[int], str]) -> int:
        """Have the node listen on a second port, from the next start on, for clients that come another way and are to
        stay on it. advertised(port): by which host:port they are told to come. Returns the port."""
        port = ports.free_port()
        addresses = f"PLAINTEXT://127.0.0.1:{self.port},FAR://127.0.0.1:{port}"
        self.properties |= {
            "listeners": f"{addresses},CONTROLLER://127.0.0.1:{self.controller_port}",
            "advertised.listeners": f"PLAINTEXT://127.0.0.1:{self.port},FAR://{advertised(port)}",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,FAR:PLAINTEXT,CONTROLLER:PLAINTEXT",
        }
        return port

    @property
    def major_version(self) -> int:
        return int(self._installation.version.split(".")[0])

    @property
    def child(self) -> Child:
        assert self._child is not None, "Kafka is not running"
        return self._child

    @property
    def running(self) -> bool:
        return self._child is not None

    def start(self) -> float:
        """Start and wait. Returns the time at which the node said that it had started, by its own log: seconds since
        the epoch."""
        self.launch()
        return self.wait_started()

    def launch(self) -> None:
        """Start without waiting."""
        assert self._child is None, "Kafka is running already"
        self._directory.mkdir(parents=True, exist_ok=True)
        if not self.data.exists():
            self._format_data()
        config = self._directory / "server.properties"
        config.write_text(_render(_PROPERTIES | self._network() | self.properties))
        self._log_start = self.log.stat().st_size if self.log.exists() else 0
        argv = [*self._installation.java(*self._jvm_options), "kafka.Kafka", str(config)]
        self._child = Child("Kafka", argv, self.log, cwd=self._directory)

    def _network(self) -> dict[str, str]:
        """The properties that are this node's own."""
        return {
            "node.id": str(self.node_id),
            "listeners": f"PLAINTEXT://127.0.0.1:{self.port},CONTROLLER://127.0.0.1:{self.controller_port}",
            "controller.quorum.voters": f"{self.node_id}@127.0.0.1:{self.controller_port}",
            "log.dirs": str(self.data),
        }

    def _format_data(self) -> None:
        """A copy of the formatted directory, with a name of its own in it."""
        shutil.copytree(self._installation.formatted, self.data)
        meta = self.data / "meta.properties"
        directory_id = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        text = re.sub(r"(?m)^node\.id=.*$", f"node.id={self.node_id}", meta.read_text())
        meta.write_text(re.sub(r"(?m)^directory\.id=.*$", f"directory.id={directory_id}", text))

    def java(self) -> list[str]:
        """A command line that runs a class of this installation, up to its name."""
        return self._installation.java()

    def wait_started(self) -> float:
        def started() -> re.Match[str] | None:
            text = self.log.read_bytes()[self._log_start :].decode(errors="replace")
            assert self.child.running, f"Kafka died:\n{self.child.tail()}"
            return _STARTED.search(text)

        found = wait_until(started, _START_TIMEOUT, lambda: f"Kafka started\n{self.child.tail()}")
        return int(found[1]) / 1000

    def restart(self) -> float:
        """Stop in order, start again. Returns what start() does."""
        self.stop()
        return self.start()

    def stop(self) -> float:
        """SIGTERM; returns the seconds it took."""
        seconds, _ = self.child.terminate(_STOP_TIMEOUT)
        self._child = None
        return seconds

    def stop_or_kill(self, timeout: float) -> None:
        """Wait for the end of a node that was told to end, for so long."""
        try:
            self.child.wait(timeout)
            self._child = None
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """SIGKILL."""
        self.child.kill()
        self._child = None

    def pause(self) -> None:
        """SIGSTOP: connections stay, nothing is answered."""
        self.child.signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.child.signal(signal.SIGCONT)

    def close(self) -> None:
        """End it in whatever state it is, quickly: its data is not wanted any more."""
        if self._child is not None:
            self.kill()
        shutil.rmtree(self.data, ignore_errors=True)


def unique(prefix: str) -> str:
    return f"{prefix}-{uuid.uuid4().hex[:12]}"
