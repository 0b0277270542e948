"""metamorphosis route tells what the plugin does with a message, before it is published."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from conftest import MakeBroker
from harness import ports
from harness.consumer import Record, wait_records
from harness.kafka import Cluster
from harness.tool import good, tool

_OWN_TIME = {"mm-id", "mqtt.received_at", "mm-waited-ms"}  # differ from one message to the next

# Each message: MQTT topic, QoS, retain, payload, properties of MQTT 5.
_MESSAGES: list[tuple[str, int, bool, bytes, dict[str, Any]]] = [
    ("plant/oven/temperature", 1, False, b"21.5", {}),
    ("plant/oven/door", 0, True, b"", {"UserProperty": [("site", "north"), ("site", "again"), ("traceparent", "00-1")]}),
    ("raw/x", 2, False, bytes(range(256)), {"ContentType": "text/plain", "ResponseTopic": "r/t", "CorrelationData": b"c"}),
    ("text/ö/ü", 1, False, "grün".encode(), {"UserProperty": [("", "")]}),
    ("who/am/i", 1, False, b"{}", {}),
    ("level//empty", 1, False, b"x" * 5000, {}),
    ("made/of/topic", 1, False, b"1", {}),
    ("keyless/a", 1, False, b"3", {}),
    ("keyless/b", 1, False, b"4", {}),
    ("no/route/takes/it", 1, False, b"2", {"ContentType": "a/b"}),
]


def _publish(port: int, client_id: str, username: str) -> None:
    client = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id=client_id, protocol=paho.MQTTv5)
    client.username_pw_set(username)
    client.connect("127.0.0.1", port)
    client.loop_start()
    for topic, qos, retain, payload, given in _MESSAGES:
        properties = Properties(PacketTypes.PUBLISH)
        for name, value in given.items():
            setattr(properties, name, value)
        client.publish(topic, payload, qos, retain, properties).wait_for_publish(10)
    client.disconnect()
    client.loop_stop()


def _arguments(directory: Path, client_id: str, username: str, index: int, properties: bool) -> list[str]:
    topic, qos, retain, payload, given = _MESSAGES[index]
    if not properties:
        given = {}
    file = directory / f"payload-{index}"
    file.write_bytes(payload)
    arguments = ["--topic", topic, "--client-id", client_id, "--username", username, "--qos", str(qos)]
    arguments += ["--payload", str(file), *(["--retain"] if retain else [])]
    for name, value in given.get("UserProperty", []):
        arguments += ["--user-property", f"{name}={value}"]
    for name, switch in (("ContentType", "--content-type"), ("ResponseTopic", "--response-topic")):
        if name in given:
            arguments += [switch, given[name]]
    if "CorrelationData" in given:
        arguments += ["--correlation-data", given["CorrelationData"].decode()]
    return arguments


def _told(record: Record) -> dict[str, Any]:
    """A record as the tool tells of it."""
    headers = [{"name": name, "value": (value or b"").decode()} for name, value in record.headers]
    return {
        "kafka_topic": record.topic,
        "key": None if record.key is None else record.key.decode(),
        "partition": record.partition,
        "value_bytes": len(record.value),
        "headers": [header for header in headers if header["name"] not in _OWN_TIME],
    }


@pytest.mark.parametrize("partitioner", ["murmur2_random", "consistent", "fnv1a"])
def test_the_tool_tells_what_the_plugin_does(
    kafka: Cluster, make_broker: MakeBroker, tmp_path: Path, partitioner: str
) -> None:
    """Messages with all that MQTT 5 has, by routes of every kind: Kafka topic, key, partition, size of the value and
    headers of each record in Kafka are those that the tool told. It is told of the properties that the plugin sees."""
    plant, raw, text, who, keyless, fallback = (kafka.new_topic(partitions=7) for _ in range(6))
    prefix = kafka.new_topic()
    made = kafka.create_topic(f"{prefix}.of", partitions=5)
    file = tmp_path / "mm.conf"
    file.write_text(
        f"kafka_broker {kafka.bootstrap}\n"
        f"kafka_topic {fallback}\n"
        f"kafka_partitioner {partitioner}\n"
        f"kafka_topic_allow {prefix}.*\n"
        f"health_port {ports.free_port()}\n"
        f"route plant/# {plant} key=${{topic[1]}} headers=all\n"
        f"route raw/# {raw} format=raw\n"
        f"route text/# {text} format=base64 headers=topic,qos\n"
        f"route who/# {who} key=${{clientid}}/${{username}}/${{qos}} headers=all,username\n"
        f"route keyless/# {keyless} key=none\n"
        f"route made/# {prefix}.${{topic[1]}}\n"
    )
    broker = make_broker({"config_file": file}, plugin=True)
    broker.change(health_port=None)
    broker.health_port = 0
    broker.start()
    _publish(broker.port, "the client", "alice")
    shown = broker.shows_properties()
    told = []
    for index in range(len(_MESSAGES)):
        arguments = _arguments(tmp_path, "the client", "alice", index, shown)
        document = good("route", "--json", "--connect", "--config", file, *arguments).document
        assert document["taken"] and not document["too_large"] and document["error"] is None
        if document["route"] is not None:
            line = file.read_text().splitlines()[document["line"] - 1]
            assert document["file"] == str(file) and line.startswith(f"route {document['route']['filters']} ")
        headers = [header for header in document["headers"] if header["name"] not in _OWN_TIME]
        told.append({name: document[name] for name in ("kafka_topic", "key", "partition", "value_bytes")})
        told[-1]["headers"] = headers
    seen = []
    for topic in {entry["kafka_topic"] for entry in told}:
        wanted = sum(entry["kafka_topic"] == topic for entry in told)
        seen += [_told(record) for record in wait_records(kafka.bootstrap, topic, wanted)]
    assert {entry["kafka_topic"] for entry in seen} == {plant, raw, text, who, keyless, made, fallback}

    def order(entry: dict[str, Any]) -> str:
        return repr(sorted(entry.items()))

    assert sorted(seen, key=order) == sorted(told, key=order)
    broker.stop()


def _route(file: Path, *args: str) -> dict[str, Any]:
    outcome = tool("route", "--json", "--config", file, *args)
    assert outcome.code in (0, 1) and outcome.err == "", outcome
    return {**outcome.document, "code": outcome.code}


def test_messages_that_go_nowhere(tmp_path: Path) -> None:
    """Not taken; made a dead letter for its Kafka topic or its size: exit code 1 and the reason."""
    file = tmp_path / "mm.conf"
    file.write_text(
        "mqtt_topic a/#\nroute b/# made.${topic[1]}\nkafka_topic_allow made.good*\nmax_message_bytes 2000\nroute $x/# xs\n"
    )
    assert _route(file, "--topic", "a/b")["code"] == 0
    nothing = _route(file, "--topic", "c")
    assert nothing["code"] == 1 and not nothing["taken"]
    assert _route(file, "--topic", "$x/1")["code"] == 0
    hidden = tool("route", "--config", file, "--topic", "$y/1")
    assert hidden.code == 1 and "a filter that begins with $ alone" in hidden.out
    assert _route(file, "--topic", "b/good-one")["kafka_topic"] == "made.good-one"
    refused = _route(file, "--topic", "b/evil")
    assert (refused["code"], refused["error"]) == (1, "KAFKA_TOPIC_NOT_ALLOWED")
    assert refused["reason"]
    payload = tmp_path / "payload"
    payload.write_bytes(b"x" * 3000)
    large = _route(file, "--topic", "a/b", "--payload", str(payload))
    assert large["code"] == 1 and large["too_large"] and large["size"] > 3000
    text = tool("route", "--config", file, "--topic", "a/b", "--payload", payload).out
    assert "too large, it becomes a dead letter" in text


def test_for_people(tmp_path: Path) -> None:
    file = tmp_path / "mm.conf"
    file.write_text("# first\nroute plant/# plant headers=topic key=none\n")
    out = good("route", "--config", file, "--topic", "plant/a", "--partitions", "12").out
    assert re.search(rf"^taken +by route 1 \(plant/#\), {re.escape(str(file))}:2$", out, re.MULTILINE)
    assert re.search(r"^Kafka topic +plant$", out, re.MULTILINE)
    assert re.search(r"^key +none$", out, re.MULTILINE)
    assert re.search(r"^partition +(\d+ of 0 to 11|any of 12)$", out, re.MULTILINE)
    assert re.search(r"^headers +mm-id: <spool>-<number>$", out, re.MULTILINE)
    assert re.search(r"^ +mqtt.topic: plant/a$", out, re.MULTILINE)
    assert "not known: --partitions N or --connect" in good("route", "--config", file, "--topic", "a").out


def test_use(tmp_path: Path, kafka_port_of_nobody: int) -> None:
    """Wrong use is 2; mistakes in the settings, or a Kafka that is not there, 1."""
    file = tmp_path / "mm.conf"
    file.write_text(f"kafka_broker 127.0.0.1:{kafka_port_of_nobody}\n")
    config = ["--config", str(file)]
    for args in (
        [],
        config,
        ["--topic", "a"],
        [*config, "--topic", "a/+"],
        [*config, "--topic", "a/#"],
        [*config, "--topic", ""],
        [*config, "--topic", "a", "--qos", "3"],
        [*config, "--topic", "a", "--user-property", "nothing"],
        [*config, "--topic", "a", "--partitions", "0"],
        [*config, "--topic", "a", "--partitions", "3", "--connect"],
        [*config, "--topic", "a", "more"],
    ):
        assert tool("route", *args).code == 2, args
    assert '--qos "3": expected a number from 0 to 2' in tool("route", *config, "--topic", "a", "--qos", "3").err
    assert "--user-property" in good("route", "--help").out
    away = tool("route", *config, "--topic", "a", "--connect", "--timeout", "1")
    assert away.code == 1 and "Kafka was not reached at " in away.err
    file.write_text("kafka_workers x\n")
    wrong = tool("route", *config, "--topic", "a")
    assert wrong.code == 1 and f"{file}:1: error: option kafka_workers" in wrong.err and wrong.out == ""
    assert tool("route", "--config", tmp_path / "nothing", "--topic", "a").code == 1
