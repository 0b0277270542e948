"""Three nodes of Kafka, of which one may be away."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

from confluent_kafka import ElectionType, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import PartitionMetadata

from harness.kafka import Cluster, Kafka
from harness.wait import wait_until

_REPLICATED = {
    "default.replication.factor": "3",
    "min.insync.replicas": "2",
    "offsets.topic.replication.factor": "3",
    "transaction.state.log.replication.factor": "3",
    "transaction.state.log.min.isr": "2",
    # A node that is gone leaves the replicas in sync sooner than after 30 s.
    "replica.lag.time.max.ms": "4000",
    # Leaders go back to where they belong soon after a restart, so that each restart moves some.
    "leader.imbalance.check.interval.seconds": "5",
}


class KafkaCluster(Cluster):
    """Three nodes, numbered from 1; each keeps its ports and its data. Topics have three replicas, of which two must
    be in sync. The controllers are the same three processes."""

    replication = 3

    def __init__(self, directory: Path, properties: Mapping[str, str] | None = None) -> None:
        self._directory = directory
        self.nodes = {n: Kafka(directory / str(n), node_id=n) for n in (1, 2, 3)}
        voters = ",".join(f"{n}@127.0.0.1:{node.controller_port}" for n, node in self.nodes.items())
        for node in self.nodes.values():
            node.properties = _REPLICATED | {"controller.quorum.voters": voters} | dict(properties or {})
        super().__init__(",".join(node.bootstrap for node in self.nodes.values()))

    def start(self) -> None:
        """Start all that are not running, and wait for them."""
        started = [node for node in self.nodes.values() if not node.running]
        for node in started:
            node.launch()
        for node in started:
            node.wait_started()

    def stop(self) -> None:
        """SIGTERM to all at once, as a cluster that is switched off; what is left for want of a quorum is killed."""
        running = [node for node in self.nodes.values() if node.running]
        for node in running:
            node.child.signal(15)
        for node in running:
            node.stop_or_kill(10)

    def close(self) -> None:
        """End it in whatever state it is: its data is not wanted any more."""
        for node in self.nodes.values():
            node.close()
        shutil.rmtree(self._directory, ignore_errors=True)

    def _partitions(self, topic: str) -> dict[int, PartitionMetadata]:
        """Of a topic. A node that was asked may just be going away."""

        def ask() -> dict[int, PartitionMetadata] | None:
            try:
                return self._admin().list_topics(topic=topic, timeout=5).topics[topic].partitions
            except KafkaException:
                return None

        return wait_until(ask, 30, f"some node tells of {topic}")

    def leader(self, topic: str, partition: int = 0) -> int:
        """The node that leads; -1: none."""
        return self._partitions(topic)[partition].leader

    def leaders(self, topic: str) -> dict[int, int]:
        """The leader of each partition."""
        return {number: partition.leader for number, partition in self._partitions(topic).items()}

    def wait_leader(self, topic: str, partition: int, other_than: int, timeout: float = 30.0) -> None:
        """Wait until another node leads."""
        what = f"{topic}-{partition} has a new leader"
        wait_until(lambda: self.leader(topic, partition) not in (-1, other_than), timeout, what)

    def in_sync(self, topic: str) -> int:
        """The least number of replicas in sync of a partition."""
        return min(len(partition.isrs) for partition in self._partitions(topic).values())

    def wait_in_sync(self, *topics: str, timeout: float = 60.0) -> None:
        """Wait until every replica of these topics is in sync."""

        def complete() -> bool:
            return all(self.in_sync(topic) == self.replication for topic in topics)

        wait_until(complete, timeout, lambda: f"all replicas of {topics} are in sync")

    def elect_preferred(self, topic: str) -> None:
        """Make the first replica of each partition its leader again."""
        partitions = [TopicPartition(topic, number) for number in self.leaders(topic)]
        done = self._admin().elect_leaders(ElectionType.PREFERRED, partitions).result(30)
        problems = [error for error in done.values() if error is not None]
        assert all(error.code() == KafkaError.ELECTION_NOT_NEEDED for error in problems), problems

    def reassign(self, topic: str, replicas: Mapping[int, list[int]]) -> None:
        """Give partitions other replicas, or the same in another order; by the tool that Kafka has for it. Returns when
        it is done; the leaders are as before where they still can."""
        plan = self._directory / "reassignment.json"
        partitions = [{"topic": topic, "partition": number, "replicas": nodes} for number, nodes in replicas.items()]
        plan.write_text(json.dumps({"version": 1, "partitions": partitions}))
        self._reassignment_tool(plan, "--execute")

        def complete() -> bool:
            return " still in progress" not in self._reassignment_tool(plan, "--verify", "--preserve-throttles")

        wait_until(complete, 60, f"{topic} is reassigned", 0.5)

    def _reassignment_tool(self, plan: Path, *arguments: str) -> str:
        (node, *_) = self.nodes.values()
        tool = [*node.java(), "org.apache.kafka.tools.reassign.ReassignPartitionsCommand"]
        done = subprocess.run(
            [*tool, "--bootstrap-server", self.bootstrap, "--reassignment-json-file", str(plan), *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"kafka-reassign-partitions failed:\n{done.stdout}{done.stderr}"
        return done.stdout

    def rolling_restart(self, *topics: str, kill: bool = False, between: Callable[[int], None] | None = None) -> None:
        """Restart one node after the other, each when all replicas of the topics are in sync again. kill: by SIGKILL
        instead of in order. between(node): is called while the node is down."""
        for number, node in self.nodes.items():
            if kill:
                node.kill()
            else:
                node.stop()
            if between is not None:
                between(number)
            node.start()
            self.wait_in_sync(*topics)
