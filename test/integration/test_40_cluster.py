"""Three nodes of Kafka, two of which must have a message before it is acknowledged: nodes are restarted in turn,
killed, frozen and taken away, and leaders move."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from conftest import MakeBroker, long_form
from harness import mqtt
from harness.arrival import check_arrived, standstills
from harness.broker import Broker
from harness.cluster import KafkaCluster
from harness.load import Load, streams
from harness.metrics import PREFIX
from harness.wait import stays_true, wait_until

_PARTITIONS = 6
_RATE = 750  # of all streams together, messages a second

# In the time of a node's session (2 s) and an election, and some for a machine that is busy starting nodes.
_ELECTION = 8.0

# Workers and spool, of which the short form has the first only.
_FORMS = [(4, "disk"), (1, "memory")]
_OTHER_FORMS = [(1, "memory"), (3, "disk")]

Seconds = Callable[[float, float], float]
Figure = Callable[[str], None]


@pytest.fixture(scope="module")
def _nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaCluster]:
    cluster = KafkaCluster(tmp_path_factory.mktemp("cluster"))
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.close()


@pytest.fixture
def cluster(_nodes: KafkaCluster) -> Iterator[KafkaCluster]:
    """Three nodes that run when the test begins, and are made to run when it ends."""
    try:
        yield _nodes
    finally:
        for node in _nodes.nodes.values():
            if node.running:
                node.resume()
        _nodes.start()


class _Run:
    """A Kafka topic, a broker that writes to it, and publishers."""

    def __init__(
        self,
        cluster: KafkaCluster,
        make_broker: MakeBroker,
        workers: int,
        spool_dir: Path | None = None,
        config: dict[str, str] | None = None,
        rate: float = _RATE,
        options: dict[str, str | int] | None = None,
    ) -> None:
        self.cluster = cluster
        # The time of appending tells how long a partition stood still.
        self.topic = cluster.new_topic(_PARTITIONS, {"message.timestamp.type": "LogAppendTime", **(config or {})})
        all_options: dict[str, str | int] = {
            "kafka_broker": cluster.bootstrap,
            "kafka_topic": self.topic,
            "kafka_workers": workers,
            **(options or {}),
        }
        if spool_dir is not None:
            all_options["spool_dir"] = str(spool_dir)
        self.broker: Broker = make_broker(all_options).start()
        kinds = [
            *streams(2, "one", rate=rate / 3),
            *streams(1, "two", qos=2, rate=rate / 6),
            *streams(1, "five", version=mqtt.V5, rate=rate / 6),
        ]
        self.load = Load(self.broker.port, kinds).start()
        self.broker.health.wait_for(lambda m: m.delivered > 50, 15, "messages are delivered")

    def __enter__(self) -> _Run:
        return self

    def __exit__(self, *_: object) -> None:
        self.load.abandon()

    def delivered(self) -> float:
        return self.broker.health.scrape().delivered

    def wait_delivery(self, timeout: float) -> float:
        """Wait until messages are delivered; returns the seconds."""
        begin = time.monotonic()
        before = self.delivered()
        self.broker.health.wait_for(lambda m: m.delivered > before + 20, timeout, "messages are delivered")
        return time.monotonic() - begin

    def finish(self) -> str:
        """All that was published is in Kafka, in order; no publisher has lost its connection."""
        audit, metrics = check_arrived(self.broker, self.load, self.cluster.bootstrap, self.topic, 90)
        restarts = metrics.total(PREFIX + "producer_restarts_total")
        still = standstills(self.cluster.bootstrap, [self.topic])
        return (
            f"{audit}, {restarts:.0f} producers replaced, "
            f"partitions stood still for {min(still):.1f} to {max(still):.1f} s"
        )


@pytest.mark.parametrize(("workers", "spool"), _FORMS if long_form() else _FORMS[:1])
def test_restarted_in_turn(
    cluster: KafkaCluster,
    make_broker: MakeBroker,
    tmp_path: Path,
    seconds: Seconds,
    figure: Figure,
    workers: int,
    spool: str,
) -> None:
    """Each node is stopped in order and started again, while the other two go on and lead what it has led."""
    n = int(seconds(1, 20))
    n_moves = 0
    with _Run(cluster, make_broker, workers, tmp_path / "spool" if spool == "disk" else None) as run:
        leaders = cluster.leaders(run.topic)

        def others_lead(gone: int) -> None:
            nonlocal leaders, n_moves
            wait_until(lambda: gone not in cluster.leaders(run.topic).values(), 20, f"others lead instead of {gone}")
            now = cluster.leaders(run.topic)
            n_moves += sum(now[partition] != leaders[partition] for partition in now)
            leaders = now

        for _ in range(n):
            cluster.rolling_restart(run.topic, between=others_lead)
        # Of each node in each round, what it has led.
        assert n_moves >= _PARTITIONS * n
        run.wait_delivery(5)
        figure(f"{n} rolling restarts, {n_moves} times another leader: {run.finish()}")


@pytest.mark.parametrize(("workers", "spool"), _OTHER_FORMS if long_form() else _OTHER_FORMS[:1])
def test_leader_is_killed(
    cluster: KafkaCluster,
    make_broker: MakeBroker,
    tmp_path: Path,
    seconds: Seconds,
    figure: Figure,
    workers: int,
    spool: str,
) -> None:
    """The leader of a partition is killed by SIGKILL; another takes over, and the killed one comes back."""
    n = int(seconds(1, 20))
    with _Run(cluster, make_broker, workers, tmp_path / "spool" if spool == "disk" else None) as run:
        for k in range(n):
            partition = k % _PARTITIONS
            victim = cluster.leader(run.topic, partition)
            cluster.nodes[victim].kill()
            cluster.wait_leader(run.topic, partition, other_than=victim)
            run.wait_delivery(_ELECTION)
            cluster.nodes[victim].start()
            cluster.wait_in_sync(run.topic)
        figure(f"{n} leaders killed: {run.finish()}")


def test_leader_is_frozen(
    cluster: KafkaCluster, make_broker: MakeBroker, tmp_path: Path, seconds: Seconds, figure: Figure
) -> None:
    """The leader of a partition is stopped by SIGSTOP: its connections stand, and nothing tells the Kafka client that
    it is gone but the want of answers. The partitions of the other leaders go on at once, those that it led when their
    requests have timed out: after 30 s, and in the short form after 3 s. It is frozen all the time."""
    patience = seconds(3, 30)
    options: dict[str, str | int] = {} if long_form() else {"rdkafka.socket.timeout.ms": int(patience * 1000)}
    with _Run(cluster, make_broker, 2, tmp_path / "spool", options=options) as run:
        victim = cluster.leader(run.topic)
        cluster.nodes[victim].pause()
        frozen = time.monotonic()
        health = run.broker.health
        health.wait_for(lambda m: m.in_spool > _RATE / 2, patience, "messages wait for the frozen leader")
        cluster.wait_leader(run.topic, 0, other_than=victim)
        run.wait_delivery(_ELECTION)
        health.wait_for(lambda m: m.in_spool < _RATE / 5, patience + _ELECTION, "all partitions go on")
        stood_still = time.monotonic() - frozen
        cluster.nodes[victim].resume()
        cluster.wait_in_sync(run.topic)
        figure(f"all went on {stood_still:.1f} s after a leader was frozen: {run.finish()}")


def test_leaders_move(cluster: KafkaCluster, make_broker: MakeBroker, seconds: Seconds, figure: Figure) -> None:
    """An operator gives the replicas another order and has the preferred leaders elected, while all is well: each
    partition changes its leader."""
    with _Run(cluster, make_broker, 2) as run:
        for _ in range(int(seconds(1, 10))):
            before = cluster.leaders(run.topic)
            after = {p: before[p] % 3 + 1 for p in before}
            cluster.reassign(run.topic, {p: [n, n % 3 + 1, (n + 1) % 3 + 1] for p, n in after.items()})
            cluster.elect_preferred(run.topic)
            wait_until(lambda due=after: cluster.leaders(run.topic) == due, 20, "leaders move")  # type: ignore[misc]
            run.wait_delivery(5)
        figure(f"all leaders moved: {run.finish()}")


def test_two_of_three_away(
    cluster: KafkaCluster, make_broker: MakeBroker, tmp_path: Path, seconds: Seconds, figure: Figure
) -> None:
    """Two nodes are killed. What the third one has alone counts for nothing: no delivery is counted, MQTT goes on, the
    messages wait; when the two are back all arrives."""
    with _Run(cluster, make_broker, 2, tmp_path / "spool") as run:
        for number in (1, 2):
            cluster.nodes[number].kill()
        killed = time.monotonic()
        time.sleep(1)  # answers that were under way
        n_delivered, n_acked = run.delivered(), run.load.n_acked
        stays_true(
            lambda: run.delivered() == n_delivered and run.broker.health.status("/readyz") == 200,
            seconds(3, 30),
            "nothing is taken for delivered, and messages are taken",
        )
        n_meanwhile = run.load.n_acked - n_acked
        assert n_meanwhile > _RATE * seconds(3, 30) * 0.7, "publishers were held up"
        for number in (1, 2):
            cluster.nodes[number].launch()
        for number in (1, 2):
            cluster.nodes[number].wait_started()
        away = time.monotonic() - killed
        first = run.wait_delivery(15)
        cluster.wait_in_sync(run.topic)
        text = run.finish()
        figure(f"two nodes away for {away:.0f} s, delivery went on {first:.1f} s after they had started: {text}")


def test_too_few_in_sync(
    cluster: KafkaCluster, make_broker: MakeBroker, tmp_path: Path, seconds: Seconds, figure: Figure
) -> None:
    """The topic wants all three replicas in sync, and a leader is killed: Kafka's answer is NOT_ENOUGH_REPLICAS until
    it is back. (For an idempotent producer of librdkafka before 2.3.0 that can be fatal, #4438; then there is a new
    one.) Nothing is lost, all in order, and no more is counted as delivered than Kafka shows."""
    n_times = int(seconds(1, 20))
    with _Run(cluster, make_broker, 2, tmp_path / "spool", {"min.insync.replicas": "3"}, rate=3000) as run:
        for _ in range(n_times):
            victim = cluster.leader(run.topic)
            cluster.nodes[victim].kill()
            cluster.wait_leader(run.topic, 0, other_than=victim)
            time.sleep(0.5)
            n = run.delivered()
            stays_true(lambda before=n: run.delivered() == before, 1.5, "nothing is delivered")  # type: ignore[misc]
            cluster.nodes[victim].start()
            cluster.wait_in_sync(run.topic)
            run.wait_delivery(10)
        figure(f"{n_times} times too few replicas: {run.finish()}")
