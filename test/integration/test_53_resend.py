"""`metamorphosis dead redrive` and `spool replay`, with messages among the others that Kafka does not take: those are
named and stay, and all others arrive in order."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from conftest import MakeBroker, MakeSecureKafka
from harness import mqtt
from harness.broker import Broker
from harness.consumer import numbers_by_topic, read_topic
from harness.kafka import unique
from harness.secure import SecureKafka
from harness.tool import Outcome, good, tool
from harness.world import World

_N = 1000
_N_TOPICS = 7
_DAY = 86400.0

# Which of the messages Kafka does not take, and what it says of them.
_TOO_LARGE, _TOO_OLD, _MISSING, _FORBIDDEN = 100, 300, 500, 700
_REFUSED = {
    _TOO_LARGE: "MSG_SIZE_TOO_LARGE",
    _TOO_OLD: "INVALID_TIMESTAMP",
    _MISSING: "UNKNOWN_TOPIC",
    _FORBIDDEN: "TOPIC_AUTHORIZATION_FAILED",
}
_TOPICS = {_MISSING: "missing", _FORBIDDEN: "forbidden"}


def _publish(broker: Broker, world: World) -> None:
    """A thousand messages, which are numbers; one of them was received a day ago."""
    messages: list[tuple[bytes | str, bytes]] = [
        (_TOPICS.get(n, f"good/{n % _N_TOPICS}"), b"%0*d" % (4000 if n == _TOO_LARGE else 1, n)) for n in range(_N)
    ]
    mqtt.publish_all(broker.port, messages[:_TOO_OLD])
    world.set_clock(-_DAY)
    mqtt.publish_all(broker.port, messages[_TOO_OLD : _TOO_OLD + 1])
    world.set_clock(0)
    mqtt.publish_all(broker.port, messages[_TOO_OLD + 1 :])


def _told(done: Outcome) -> list[str]:
    """What the tool said on standard error, but that a password is sent in clear."""
    return [line for line in done.err.splitlines() if "option kafka_security_protocol" not in line]


@dataclass
class Target:
    """A Kafka in which alice has rights on some topics, and the settings that lead the messages there."""

    kafka: SecureKafka
    topic: str
    missing: str
    forbidden: str

    @property
    def settings(self) -> list[str]:
        options = self.kafka.options("sasl")
        del options["kafka_broker"]
        settings = [f"{name}={value}" for name, value in options.items()]
        settings += [f"route=missing {self.missing}", f"route=forbidden {self.forbidden}"]
        # Else a topic that is not there is waited for, which may be new.
        return [*(a for s in settings for a in ("--set", s)), "--rdkafka.topic.metadata.propagation.max.ms=500"]

    @property
    def address(self) -> str:
        return self.kafka.address("sasl")

    def check(self) -> None:
        """All that Kafka takes is there once, in order."""
        expected = {f"good/{k}": [n for n in range(k, _N, _N_TOPICS) if n not in _REFUSED] for k in range(_N_TOPICS)}
        records = read_topic(self.kafka.bootstrap, self.topic)
        assert len(records) == _N - len(_REFUSED)
        assert numbers_by_topic(records) == expected

    def mend(self) -> None:
        """Kafka takes whatever it was that it did not take."""
        self.kafka.change_topic(
            self.topic, {"max.message.bytes": "1000000", "message.timestamp.before.max.ms": str(2**63 - 1)}
        )
        self.kafka.create_topic(self.missing)
        self.kafka.allow("alice", "WRITE", self.forbidden)


@pytest.fixture
def target(make_secure_kafka: MakeSecureKafka) -> Target:
    kafka = make_secure_kafka(acls=True)
    kafka.start()
    topic = kafka.new_topic(3, {"max.message.bytes": "3000", "message.timestamp.before.max.ms": "3600000"})
    target = Target(kafka, topic, unique("missing"), kafka.new_topic())
    for name in (target.topic, target.missing):
        kafka.allow("alice", "WRITE", name)
        kafka.allow("alice", "DESCRIBE", name)
    kafka.allow("alice", "DESCRIBE", target.forbidden)
    return target


def test_redrive(target: Target, make_broker: MakeBroker, tmp_path: Path) -> None:
    """Of a thousand letters, four are not taken, each for another reason. Each of them is named, stays, and is tried
    again by the next call, which delivers it when it is taken; the others are delivered once."""
    spool = tmp_path / "spool"
    world = World(tmp_path / "world")
    options = {
        "kafka_broker": target.kafka.bootstrap,
        "spool_dir": spool,
        # Nothing has a way: all that comes is a letter.
        "route": "# nowhere.${topic[0]}",
        "kafka_topic_allow": "somewhere.*",
    }
    broker = make_broker(options, **world.around()).start()
    _publish(broker, world)
    assert broker.health.wait_drained(30).dead_lettered == _N

    def redrive() -> Outcome:
        settings = ["--set", f"kafka_topic={target.topic}", *target.settings]
        return tool("dead", "redrive", "--kafka", target.address, *settings, spool)

    def letters() -> list[dict[str, Any]]:
        return good("dead", "ls", "--json", spool).objects

    ids = [str(letter["id"]) for letter in letters()]
    done = redrive()
    assert (done.code, done.out) == (1, "delivered 996 dead letters, 4 not taken by Kafka\n"), done
    target.check()
    told = {line.split()[1]: line for line in _told(done)}
    assert told.keys() == {ids[n] for n in _REFUSED}
    assert all(error in told[ids[n]] for n, error in _REFUSED.items())
    assert [n for n, letter in enumerate(letters()) if not letter["redriven"]] == sorted(_REFUSED)

    done = redrive()
    assert (done.code, done.out) == (
        1,
        "delivered 0 dead letters, 996 sent again before, 4 not taken by Kafka\n",
    ), done
    target.check()
    target.mend()
    done = redrive()
    assert (done.code, done.out) == (0, "delivered 4 dead letters, 996 sent again before\n"), done
    assert _told(done) == []
    assert len(read_topic(target.kafka.bootstrap, target.topic)) == _N - len(_TOPICS)


def test_replay(target: Target, make_broker: MakeBroker, tmp_path: Path, kafka_port_of_nobody: int) -> None:
    """The same of a spool: what is not taken is told, by itself or for its Kafka topic."""
    spool = tmp_path / "spool"
    world = World(tmp_path / "world")
    options = {"kafka_broker": f"127.0.0.1:{kafka_port_of_nobody}", "spool_dir": spool}
    broker = make_broker(options, **world.around()).start()
    _publish(broker, world)
    broker.abandon()
    done = tool("spool", "replay", "--kafka", target.address, "--topic", target.topic, *target.settings, spool)
    assert done.code == 1
    assert "delivered 996 records" in done.out and "4 refused by Kafka" in done.out, done
    target.check()
    for n in (_TOO_LARGE, _TOO_OLD):
        assert f'record {n + 1} of MQTT topic "good/{n % _N_TOPICS}" was refused: {_REFUSED[n]}' in done.err, done
    for name, error in ((target.missing, _REFUSED[_MISSING]), (target.forbidden, _REFUSED[_FORBIDDEN])):
        assert re.search(f"Kafka topic {name} takes no records: .*{error}", done.err), done
        assert f"1 records for Kafka topic {name} were not taken" in done.out
    assert len(_told(done)) == len(_REFUSED), done
