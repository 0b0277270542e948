"""Changes of the settings while a broker runs: the config_file, secrets as Kubernetes mounts them, and the order across
Kafka topics."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from harness.broker import Broker
from harness.consumer import Record, read_topic
from harness.load import Load
from harness.publisher import parse_payload

RELOADS = "metamorphosis_config_reloads_total"
KEPT = "what was in use before stays in use"


class ConfigFile:
    """The file that config_file names."""

    def __init__(self, path: Path, **options: str | int) -> None:
        self.path = path
        self._options: dict[str, str | int] = {}
        self.change(**options)

    def change(self, **options: str | int | Path | None) -> None:
        """Give options other values; None takes one away."""
        merged = self._options | options
        self._options = {name: value for name, value in merged.items() if value is not None}
        self.write("".join(f"{name} {value}\n" for name, value in self._options.items()))

    def write(self, text: str) -> None:
        """In one step, as editors do: a change that an earlier signal has asked for must not find half of it."""
        fresh = self.path.with_suffix(".new")
        fresh.write_text(text)
        fresh.chmod(0o600)
        os.replace(fresh, self.path)


class MountedSecret:
    """Files as Kubernetes shows those of a Secret: NAME leads to ..data/NAME, and ..data to a directory of the present
    version. All files change in one step, when ..data is made to lead to another directory."""

    def __init__(self, directory: Path, files: Mapping[str, bytes]) -> None:
        self.directory = directory
        self._version = 0
        directory.mkdir()
        self.update(files)
        for name in files:
            (directory / name).symlink_to(Path("..data") / name)

    def update(self, files: Mapping[str, bytes]) -> None:
        self._version += 1
        data = self.directory / f"..version_{self._version}"
        data.mkdir()
        for name, content in files.items():
            (data / name).write_bytes(content)
            (data / name).chmod(0o600)
        fresh = self.directory / "..data_new"
        fresh.symlink_to(data.name)
        os.replace(fresh, self.directory / "..data")

    def path(self, name: str) -> str:
        return str(self.directory / name)


def reloads(broker: Broker, result: str) -> float:
    return broker.health.scrape().get(RELOADS, result=result)


def wait_reloads(broker: Broker, result: str, count: float, timeout: float = 20.0) -> None:
    """Until so many changes have ended like this."""
    broker.health.wait_for(lambda m: m.get(RELOADS, result=result) >= count, timeout, f"{count:g} reloads: {result}")


def reload(broker: Broker, result: str, timeout: float = 20.0) -> None:
    """SIGHUP, and wait for what comes of it."""
    before = reloads(broker, result)
    broker.reload()
    wait_reloads(broker, result, before + 1, timeout)


def read_all(bootstrap: str, topics: list[str]) -> dict[str, list[Record]]:
    """The records of Kafka topics, each id once: the first."""
    found = {}
    for topic in topics:
        ids: dict[str, Record] = {}
        for record in read_topic(bootstrap, topic):
            ids.setdefault(record.mm_id, record)
        found[topic] = list(ids.values())
    return found


def check_across(load: Load, records: Mapping[str, list[Record]]) -> None:
    """Messages of an MQTT topic that went to one Kafka topic first and to another then: each message is in one of them,
    and each Kafka topic has its own in order. Of a load that has ended, with one spool."""
    places: dict[str, dict[int, str]] = defaultdict(dict)
    for topic, all_of_it in records.items():
        last: dict[str, int] = defaultdict(lambda: -1)
        for record in all_of_it:
            mqtt_topic, number, _ = parse_payload(record.payload)
            assert mqtt_topic == record.mqtt_topic
            assert number > last[mqtt_topic], f"{topic}: {mqtt_topic} {number} behind {last[mqtt_topic]}"
            last[mqtt_topic] = number
            before = places[mqtt_topic].setdefault(number, topic)
            assert before == topic, f"{mqtt_topic} {number} is in {before} and in {topic}"
    for mqtt_topic, book in load.books.items():
        missing = [n for n in range(book.n_sent) if n not in places[mqtt_topic]]
        assert not missing, f"{mqtt_topic}: {len(missing)} of {book.n_sent} are nowhere: {missing[:10]}"
