"""Three nodes of Kafka, of which one may be away."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from confluent_kafka import KafkaException

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

    def leader(self, topic: str, partition: int = 0) -> int:
        """The node that leads; -1: none."""
        return self._admin().list_topics(topic=topic, timeout=10).topics[topic].partitions[partition].leader

    def leaders(self, topic: str) -> dict[int, int]:
        """The leader of each partition."""
        described = self._admin().list_topics(topic=topic, timeout=10).topics[topic]
        return {number: partition.leader for number, partition in described.partitions.items()}

    def in_sync(self, topic: str) -> int:
        """The least number of replicas in sync of a partition."""
        described = self._admin().list_topics(topic=topic, timeout=10).topics[topic]
        return min(len(partition.isrs) for partition in described.partitions.values())

    def wait_in_sync(self, *topics: str, timeout: float = 60.0) -> None:
        """Wait until every replica of these topics is in sync."""

        def complete() -> bool:
            try:
                return all(self.in_sync(topic) == self.replication for topic in topics)
            except KafkaException:
                return False  # in the middle of an election

        wait_until(complete, timeout, lambda: f"all replicas of {topics} are in sync")

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
