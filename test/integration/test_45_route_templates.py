"""What a route makes of a message: Kafka topic and key by templates, formats, headers; and what no publisher can make."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import time
import warnings
from collections.abc import Mapping
from pathlib import Path

import pytest

from conftest import MakeBroker
from harness import mqtt, murmur2
from harness.broker import Broker, mosquitto_binary, sanitized
from harness.consumer import Record, read_topic, wait_records
from harness.kafka import Cluster, Kafka, unique
from harness.metrics import PREFIX
from harness.mosquitto21 import mosquitto21_binary, versions
from harness.tool import tool
from harness.toxic import Toxin, ToxicProxy
from harness.wait import wait_until

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # of Python's importlib, inside
    from kafka import KafkaConsumer
    from kafka import TopicPartition as PythonTopicPartition

_ID = "mm-id"


def _headers(record: Record) -> dict[str, bytes | None]:
    """Of a record that has each name once; without mm-id."""
    found = dict(record.headers)
    assert len(found) == len(record.headers), record.headers
    assert record.mm_id
    return {name: value for name, value in found.items() if name != _ID}


def _without_times(headers: Mapping[str, bytes | None]) -> dict[str, bytes | None]:
    return {name: value for name, value in headers.items() if name not in ("mqtt.received_at", "mm-waited-ms")}


# --- formats and headers ---


def _binary(mosquitto: str) -> str | None:
    return mosquitto21_binary() if mosquitto == "2.1" else None


@pytest.mark.parametrize("mosquitto", versions())
def test_properties_leave_no_memory_behind(kafka: Cluster, make_broker: MakeBroker, mosquitto: str) -> None:
    """The broker gives properties as copies, and which function frees them differs by its version: 15,000 messages with
    14 properties each, after 5,000 for a start, add no more than 8 MiB (and would add more than 25 if nobody did). Few at
    a time, since what waits for Kafka takes memory, too."""
    broker = make_broker(
        {"kafka_broker": kafka.bootstrap, "kafka_topic": kafka.new_topic(), "payload_format": "raw"},
        binary=_binary(mosquitto),
    ).start()
    properties = (
        mqtt.payload_format(True)
        + mqtt.content_type("text/plain")
        + mqtt.response_topic("a/b")
        + mqtt.correlation_data(bytes(1000))
        + b"".join(mqtt.user_property(f"x-{n}", "1" * 100) for n in range(10))
    )
    sizes = []
    with mqtt.Client(broker.port, "writer", mqtt.V5) as client:
        for _ in range(4):
            for _ in range(10):
                for _ in range(500):
                    client.send(mqtt.publish("t", b"x", version=mqtt.V5, properties=properties))
                client.ping()
                broker.health.wait_drained(60)
            sizes.append(broker.rss())
    if not sanitized():
        assert sizes[-1] - sizes[0] < 8 << 20, sizes


@pytest.mark.parametrize("mosquitto", versions())
def test_headers_of_every_kind(kafka: Cluster, make_broker: MakeBroker, mosquitto: str) -> None:
    """All that MQTT 5 can tell becomes headers, byte for byte; what a message does not have makes none; json has mm-id
    alone, as ever. By a broker that does not show properties, they alone are missing."""
    topics = {name: kafka.new_topic() for name in ("json", "raw", "base64", "some")}
    broker = make_broker(
        [
            ("kafka_broker", kafka.bootstrap),
            ("kafka_topic", topics["json"]),
            ("route", f"raw/# {topics['raw']} format=raw headers=all,username"),
            ("route", f"base64/# {topics['base64']} format=base64"),
            ("route", f"some/# {topics['some']} headers=qos,user:x-*,user:trace*"),
        ],
        binary=_binary(mosquitto),
    ).start()
    payload = bytes(range(256))
    properties = (
        mqtt.payload_format(False)
        + mqtt.content_type("application/x-été")
        + mqtt.response_topic("answers/here")
        + mqtt.correlation_data(b"\x00\xff\x00")
        + mqtt.user_property("x-unit", "°C")
        + mqtt.user_property("", "")  # Mosquitto 2.1 gives NULL for these
        + mqtt.user_property("mm-id", "forged")
        + mqtt.user_property("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
        + mqtt.user_property("tracestate", "congo=t61rcWkgMzE")
    )
    with mqtt.Client(broker.port, "sensor é 7", mqtt.V5, username="jöe") as client:
        for name in topics:
            client.publish(f"{name}/1", payload, 2, retain=True, properties=properties)
    with mqtt.Client(broker.port, "old one", mqtt.V311) as client:
        for name in topics:
            client.publish(f"{name}/2", b"", 0)
        client.ping()
    broker.health.wait_drained(20)
    trace = {
        "traceparent": b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "tracestate": b"congo=t61rcWkgMzE",
    }
    full = {
        "mqtt.qos": b"2",
        "mqtt.retain": b"true",
        "mqtt.client_id": "sensor é 7".encode(),
        "mqtt.content_type": "application/x-été".encode(),
        "mqtt.response_topic": b"answers/here",
        "mqtt.correlation_data": b"\x00\xff\x00",
        "mqtt.payload_format": b"bytes",
        "mqtt.user.x-unit": "°C".encode(),
        "mqtt.user.": b"",
        "mqtt.user.mm-id": b"forged",
        **trace,
    }
    if not broker.shows_properties():
        full = {name: value for name, value in full.items() if name in ("mqtt.qos", "mqtt.retain", "mqtt.client_id")}
    bare = {"mqtt.qos": b"0", "mqtt.retain": b"false", "mqtt.client_id": b"old one"}
    found = {name: wait_records(kafka.bootstrap, topic, 2) for name, topic in topics.items()}
    assert [_headers(record) for record in found["json"]] == [{}, {}]
    assert [record.payload for record in found["json"]] == [payload, b""]
    assert [record.value for record in found["raw"]] == [payload, b""]
    assert [_without_times(_headers(record)) for record in found["raw"]] == [
        {**full, "mqtt.topic": b"raw/1", "mqtt.username": "jöe".encode()},
        {**bare, "mqtt.topic": b"raw/2"},
    ]
    assert [base64.b64decode(record.value, validate=True) for record in found["base64"]] == [payload, b""]
    assert [_without_times(_headers(record)) for record in found["base64"]] == [
        {**full, "mqtt.topic": b"base64/1"},
        {**bare, "mqtt.topic": b"base64/2"},
    ]
    assert [_headers(record) for record in found["some"]] == [
        {name: value for name, value in full.items() if name in ("mqtt.qos", "mqtt.user.x-unit", *trace)},
        {"mqtt.qos": b"0"},
    ]
    for record in found["raw"]:
        assert int(_headers(record)["mqtt.received_at"] or b"") == record.timestamp_ms
        assert 0 <= int(_headers(record)["mm-waited-ms"] or b"") < 20000


def _binary_without_readers(shown: Broker, file: Path) -> str:
    """A copy of the program of a broker that runs, that exports no reader of properties, like those that Mosquitto's own
    makefiles build: in its table of names each has another one, so that nobody finds it. Returns what starts it."""
    content = shown.program().read_bytes()
    for name in (b"next", b"identifier", b"read_byte", b"read_string", b"read_binary", b"read_string_pair"):
        symbol = b"\0mosquitto_property_" + name + b"\0"
        assert content.count(symbol) == 1, name
        content = content.replace(symbol, symbol.replace(b"mosquitto_", b"mosquittO_"))
    file.write_bytes(content)
    file.chmod(0o755)
    starts = Path(mosquitto_binary()).read_bytes()
    if not starts.startswith(b"#!"):
        return str(file)
    # A script that prepares something for the program, as that of scripts/matrix.sh does, and names it.
    program = os.readlink(shown.program()).encode()
    assert program in starts
    script = file.with_name("start-mosquitto")
    script.write_bytes(starts.replace(program, str(file).encode()))
    script.chmod(0o755)
    return str(script)


def test_a_broker_that_shows_no_properties(kafka: Cluster, make_broker: MakeBroker, tmp_path: Path) -> None:
    """The start log says what does not become headers, once; all else works, for publishers of MQTT 5 too."""
    topic = kafka.new_topic()
    options = {"kafka_broker": kafka.bootstrap, "kafka_topic": topic, "payload_format": "raw"}
    # Nothing is said where nothing is missed: by brokers that show them, and where no header wants them.
    broker = make_broker(options).start()
    binary = mosquitto_binary()
    if broker.shows_properties():
        broker.wait_log("Kafka is reached")
        assert "does not show plugins" not in broker.logs()
        binary = _binary_without_readers(broker, tmp_path / "mosquitto")
    other = make_broker(options | {"payload_format": "json"}, binary=binary).start()
    other.wait_log("Kafka is reached")
    assert not other.shows_properties()
    assert "does not show plugins" not in other.logs()
    other.stop()
    broker = make_broker(options, binary=binary).start()
    (line,) = broker.wait_log("does not show plugins the properties of MQTT 5 messages")
    for lost in ("content type", "response topic", "correlation data", "payload format", "user properties"):
        assert lost in line
    properties = mqtt.content_type("text/plain") + mqtt.user_property("x-unit", "K") + mqtt.response_topic("here")
    with mqtt.Client(broker.port, "sensor", mqtt.V5) as client:
        client.publish("a", b"273", 2, retain=True, properties=properties)
    (record,) = wait_records(kafka.bootstrap, topic, 1)
    assert (record.key, record.value) == (b"a", b"273")
    assert _without_times(_headers(record)) == {
        "mqtt.topic": b"a",
        "mqtt.qos": b"2",
        "mqtt.retain": b"true",
        "mqtt.client_id": b"sensor",
    }


def test_many_and_large_properties(kafka: Cluster, make_broker: MakeBroker) -> None:
    """A hundred user properties, the same name more than once, and 64 KiB of one: all are there, in their order. Of two
    hundred, 128 are, and a header tells of the others."""
    topic = kafka.new_topic()
    broker = make_broker(
        {"kafka_broker": kafka.bootstrap, "kafka_topic": topic, "payload_format": "raw", "kafka_headers": "user"}
    ).start()
    hundred = [(f"name {n % 90}", "v" * n) for n in range(100)]
    large = [("large", "x" * 65535), ("n" * 65535, "y"), ("more", "z" * 65535)]
    with mqtt.Client(broker.port, "c", mqtt.V5) as client:
        for pairs in (hundred, large, [(f"{n}", f"{n}") for n in range(200)], []):
            client.publish("t", b"p", 1, properties=b"".join(mqtt.user_property(*pair) for pair in pairs))
    broker.health.wait_drained(20)
    records = wait_records(kafka.bootstrap, topic, 4)
    found = [[(n, (v or b"").decode()) for n, v in record.headers if n != _ID] for record in records]
    if not broker.shows_properties():
        assert found == [[], [], [], []]
        return
    assert found[0] == [(f"mqtt.user.{name}", value) for name, value in hundred]
    assert found[1] == [(f"mqtt.user.{name}", value) for name, value in large]
    assert found[2] == [(f"mqtt.user.{n}", f"{n}") for n in range(128)] + [("mm-user-left-out", "72")]
    assert found[3] == []


def test_the_time_that_a_record_waited(kafka: Cluster, make_broker: MakeBroker) -> None:
    """Kafka is reached some seconds later: mm-waited-ms tells of them, but for the message that finds out."""
    topic = kafka.new_topic()
    host, _, port = kafka.bootstrap.rpartition(":")
    assert host == "127.0.0.1"
    with ToxicProxy(int(port)) as proxy:
        proxy.toxin = Toxin(refuse=True)
        broker = make_broker(
            {
                "kafka_broker": f"127.0.0.1:{proxy.port}",
                "kafka_topic": topic,
                "payload_format": "raw",
                "kafka_headers": "time",
            }
        ).start()
        mqtt.publish_all(broker.port, [("t", b"%d" % n) for n in range(20)])
        time.sleep(3)
        proxy.toxin = Toxin()
        broker.health.wait_drained(60)
        mqtt.publish_all(broker.port, [("t", b"late")])
        broker.health.wait_drained(60)
    records = wait_records(kafka.bootstrap, topic, 21)
    assert [record.value for record in records] == [*(b"%d" % n for n in range(20)), b"late"]
    waited = [int(_headers(record)["mm-waited-ms"] or b"") for record in records]
    assert all(3000 <= ms < 60000 for ms in waited[1:20]), waited
    assert waited[20] < 2000


# --- templates ---

# MQTT topic, and what ${topic}, ${topic[0]} and ${topic[2]} make of it in a Kafka topic.
_ODD = [
    ("o/a", "o.a", "o", "_"),
    ("o/a/b", "o.a.b", "o", "b"),
    ("o//b", "o..b", "o", "b"),
    ("o/a/", "o.a.", "o", "_"),
    ("o//", "o..", "o", "_"),
    ("o/é/ü x", "o.__.___x", "o", "___x"),
    ("o/../..", "o......", "o", ".."),
    ("o/$SYS/#x", None, None, None),  # a wildcard: the broker does not let it in
    ("o/{}/\\'\"", "o.__.___", "o", "___"),
]


def test_templates_with_odd_topics(kafka: Cluster, make_broker: MakeBroker) -> None:
    """Empty levels, missing levels, UTF-8, dots: a Kafka topic has legal characters only, a key has all bytes."""
    prefix = unique("odd")
    carried = [(topic, name) for topic, name, _, _ in _ODD if name is not None]
    names = {f"{prefix}.{name}" for _, name in carried}
    # Kafka lets no two of these be, and the plugin neither: the one that comes first is there.
    for name in names:
        kafka.create_topic(name)
    broker = make_broker(
        [
            ("kafka_broker", kafka.bootstrap),
            ("route", f"o/# {prefix}.${{topic}} key=${{topic[2]}}|${{topic[0]}}|${{topic[9]}}$${{ format=raw"),
            ("kafka_topic_allow", f"{prefix}.*"),
        ]
    ).start()
    mqtt.publish_all(broker.port, [(topic, topic.encode()) for topic, _ in carried])
    broker.health.wait_drained(60)
    for name in names:
        expected = [topic.encode() for topic, made in carried if f"{prefix}.{made}" == name]
        found = wait_records(kafka.bootstrap, name, len(expected))
        assert [record.value for record in found] == expected
        for record in found:
            levels = record.value.split(b"/")
            third = levels[2] if len(levels) > 2 else b""
            assert record.key == third + b"|" + levels[0] + b"|${"


def test_clients_without_names(kafka: Cluster, make_broker: MakeBroker) -> None:
    """No user name: the key of ${username} is none; and a client id that the broker has made up is one."""
    topic = kafka.new_topic()
    broker = make_broker(
        [
            ("kafka_broker", kafka.bootstrap),
            ("kafka_topic", topic),
            ("payload_format", "raw"),
            ("kafka_headers", "client_id,username"),
            ("route", f"user/# {topic} key=${{username}}"),
            ("route", f"both/# {topic} key=${{clientid}}/${{username}}"),
            ("route", f"qos/# {topic} key=${{qos}}"),
        ]
    ).start()
    with mqtt.Client(broker.port, "", mqtt.V311) as nameless:
        for name in ("user/1", "both/1"):
            nameless.publish(name, b"nameless", 1)
    with mqtt.Client(broker.port, "ann", mqtt.V5, username="joe") as ann:
        for name in ("user/1", "both/1"):
            ann.publish(name, b"ann", 1)
        for qos in (0, 1, 2):
            ann.publish(f"qos/{qos}", b"ann", qos)
        ann.ping()
    broker.health.wait_drained(20)
    records = wait_records(kafka.bootstrap, topic, 7)
    made_up = (_headers(records[0])["mqtt.client_id"] or b"").decode()
    assert made_up != ""
    assert [record.key for record in records] == [
        None,
        f"{made_up}/".encode(),
        b"joe",
        b"ann/joe",
        b"0",
        b"1",
        b"2",
    ]
    assert [_headers(record).get("mqtt.username") for record in records] == [None] * 2 + [b"joe"] * 5


def test_the_longest_topic(kafka: Cluster, make_broker: MakeBroker) -> None:
    """65,535 bytes: a key and a header have them all; as a Kafka topic they are a dead letter with the reason."""
    topic = kafka.new_topic()
    broker = make_broker(
        [
            ("kafka_broker", kafka.bootstrap),
            ("kafka_topic", topic),
            ("route", f"k/# {topic} format=raw"),
            ("route", f"t/# {topic}.${{topic}}"),
            ("kafka_topic_allow", f"{topic}.*"),
        ]
    ).start()
    longest = "k/" + "é" * 32766 + "x"
    assert len(longest.encode()) == 65535
    mqtt.publish_all(broker.port, [(longest, b"1"), ("t" + longest[1:], b"2"), ("other", b"3")])
    metrics = broker.health.wait_drained(20)
    assert metrics.delivered == 2
    assert metrics.get(PREFIX + "messages_dead_lettered_total", reason="unroutable") == 1
    records = wait_records(kafka.bootstrap, topic, 2)
    assert records[0].key == longest.encode()
    assert _headers(records[0])["mqtt.topic"] == longest.encode()
    (letter,) = json.loads(broker.health.request("/dead").text)
    assert letter["error"] == "KAFKA_TOPIC_TOO_LONG"


# --- confinement ---


def test_no_publisher_makes_kafka_topics(kafka: Cluster, make_broker: MakeBroker, tmp_path: Path) -> None:
    """What the allow list does not name, what is one too many, what collides: each a dead letter with its reason, while
    the others go on; and each is delivered by a redrive once the options are mended."""
    prefix = unique("confined")
    spool = tmp_path / "spool"
    good = [f"{prefix}.a", f"{prefix}.b.c", f"{prefix}.d"]
    rest = kafka.new_topic()
    for name in [*good, f"{prefix}x", f"{prefix}.e"]:
        kafka.create_topic(name)
    broker = make_broker(
        [
            ("kafka_broker", kafka.bootstrap),
            ("kafka_topic", rest),
            ("route", "in/# ${topic[1]} format=raw key=none"),
            ("kafka_topic_allow", f"{prefix}.*,*consumer_offsets"),
            ("kafka_topics_max", 4),
            ("spool_dir", str(spool)),
        ]
    ).start()
    refused = [
        (f"{prefix}x", "KAFKA_TOPIC_NOT_ALLOWED"),
        ("__consumer_offsets", "KAFKA_TOPIC_NOT_ALLOWED"),
        (f"{prefix}.b_c", "KAFKA_TOPIC_COLLIDES"),
        (f"{prefix}.e", "KAFKA_TOPICS_MAX"),
        ("", "KAFKA_TOPIC_NOT_ALLOWED"),
    ]
    mqtt.publish_all(broker.port, [(f"in/{name}", b"good") for name in good])
    for _ in range(3):
        mqtt.publish_all(broker.port, [(f"in/{name}", name.encode()) for name, _ in refused])
        mqtt.publish_all(broker.port, [(f"in/{name}", b"good") for name in good] + [("out", b"rest")])
    metrics = broker.health.wait_drained(20)
    assert metrics.get(PREFIX + "messages_dead_lettered_total", reason="unroutable") == 3 * len(refused)
    assert metrics.delivered == 4 * len(good) + 3
    metrics.check_ledger()
    for name in good:
        assert [record.value for record in wait_records(kafka.bootstrap, name, 4)] == [b"good"] * 4
    letters = json.loads(broker.health.request("/dead").text)
    assert [letter["error"] for letter in letters] == [error for _, error in refused] * 3
    assert "dead letter" in broker.logs()
    broker.stop()

    again = tool(
        "dead", "redrive", "--kafka", kafka.bootstrap, "--set", "route=in/# ${topic[1]} format=raw", "--set",
        f"kafka_topic_allow={prefix}*", spool,
    )  # fmt: skip
    assert "delivered 6 dead letters" in again.out, again
    assert again.code == 1  # some are still refused
    for name in (f"{prefix}x", f"{prefix}.e"):
        found = wait_records(kafka.bootstrap, name, 3)
        assert [(record.value, record.key) for record in found] == [(name.encode(), f"in/{name}".encode())] * 3


def test_a_missing_topic_is_parked_alone(kafka: Cluster, make_broker: MakeBroker, tmp_path: Path) -> None:
    """One of three Kafka topics that a template makes is not there: its messages wait, over a restart too, and the others
    go on; then all are there, in order."""
    prefix = unique("parked")
    names = [f"{prefix}.{n}" for n in range(3)]
    for name in names[:2]:
        kafka.create_topic(name)
    broker = make_broker(
        [
            ("kafka_broker", kafka.bootstrap),
            ("route", f"p/# {prefix}.${{topic[1]}} format=raw"),
            ("kafka_topic_allow", f"{prefix}.*"),
            ("kafka_retry_interval", 1),
            ("kafka_workers", 2),
            ("rdkafka.topic.metadata.propagation.max.ms", 300),
            ("spool_dir", str(tmp_path / "spool")),
        ]
    ).start()
    n = 0

    def publish(rounds: int) -> None:
        nonlocal n
        for _ in range(rounds):
            mqtt.publish_all(broker.port, [(f"p/{t}/{k}", b"%d" % n) for t in range(3) for k in range(2)])
            n += 1

    publish(20)
    broker.health.wait_for(
        lambda m: m.labelled(PREFIX + "parked_topic_messages", "kafka_topic").get(names[2], 0) >= 40, 60, "40 are parked"
    )
    for name in names[:2]:
        wait_records(kafka.bootstrap, name, 40)
    publish(20)
    broker.health.wait_for(lambda m: m.delivered == 160, 30, "the others are delivered")
    broker.stop()
    broker.start()
    publish(5)
    broker.health.wait_for(lambda m: m.delivered == 180, 30, "the others are delivered")
    kafka.create_topic(names[2])
    broker.health.wait_drained(90)
    for name in names:
        records = wait_records(kafka.bootstrap, name, 2 * n)
        assert len(records) == 2 * n
        for k in range(2):
            found = [r.value for r in records if r.key is not None and r.key.endswith(b"/%d" % k)]
            assert found == [b"%d" % i for i in range(n)], name


def test_other_templates_after_a_restart(kafka: Cluster, make_broker: MakeBroker, tmp_path: Path) -> None:
    """What is parked for a Kafka topic that is never made goes where other templates lead it, in order and first."""
    prefix = unique("moved")
    topic = kafka.create_topic(f"{prefix}.new.1")
    broker = make_broker(
        [
            ("kafka_broker", kafka.bootstrap),
            ("route", f"m/# {prefix}.${{topic[1]}} format=raw"),
            ("kafka_topic_allow", f"{prefix}.*"),
            ("kafka_retry_interval", 1),
            ("rdkafka.topic.metadata.propagation.max.ms", 300),
            ("spool_dir", str(tmp_path / "spool")),
            ("spool_properties", "all"),
        ]
    ).start()
    with mqtt.Client(broker.port, "mover", mqtt.V5) as client:
        for i in range(30):
            client.publish("m/1", b"%d" % i, 1, properties=mqtt.user_property("n", str(i)))
    broker.health.wait_for(lambda m: m.get(PREFIX + "parked_messages") == 30, 60, "all are parked")
    broker.stop()
    broker.change(route=f"m/# {prefix}.new.${{topic[1]}} key=${{clientid}} format=raw headers=user").start()
    mqtt.publish_all(broker.port, [("m/1", b"30")])
    broker.health.wait_drained(60)
    records = wait_records(kafka.bootstrap, topic, 31)
    assert [record.value for record in records] == [b"%d" % i for i in range(31)]
    assert {record.key for record in records[:30]} == {b"mover"}
    expected = [{"mqtt.user.n": b"%d" % i} if broker.shows_properties() else {} for i in range(30)]
    assert [_headers(record) for record in records[:30]] == expected


def test_templates_that_are_refused(make_broker: MakeBroker) -> None:
    """Each mistake with its place."""
    for options, expected in [
        ([("route", "a/# ${topic[0]}")], "kafka_topic_allow has to say which Kafka topics that may be"),
        ([("route", "a/# x.${tpoic}"), ("kafka_topic_allow", "x.*")], "character 3: unknown variable ${tpoic}; did you"),
        ([("kafka_key", "${topic[x]}")], "character 1: ${topic[N]} needs a number from 0 to 255"),
        ([("kafka_topic_allow", "a/*")], "expected names of Kafka topics"),
        ([("rdkafka.message.max.bytes", "2000000")], "max_message_bytes"),
    ]:
        code, logs = make_broker([("kafka_broker", "127.0.0.1:1"), *options]).run_refused()
        assert code != 0
        assert expected in logs


# --- size ---


@pytest.mark.parametrize("version", [mqtt.V311, mqtt.V5])
def test_what_is_too_large(kafka: Cluster, make_broker: MakeBroker, version: int) -> None:
    """By default: acknowledged, never handed to Kafka, a dead letter; its neighbours are delivered. With reject: no
    acknowledgement and an end of the connection."""
    topic = kafka.new_topic()
    broker = make_broker(
        {"kafka_broker": kafka.bootstrap, "kafka_topic": topic, "max_message_bytes": 10000, "payload_format": "raw"}
    ).start()
    messages: list[tuple[bytes | str, bytes]] = [("t", b"1"), ("t", b"x" * 10000), ("t", b"2"), ("t", b"y" * 9000)]
    mqtt.publish_all(broker.port, messages, version=version)
    metrics = broker.health.wait_drained(20)
    assert metrics.delivered == 3
    assert metrics.get(PREFIX + "messages_dead_lettered_total", reason="too_large") == 1
    assert [len(record.value) for record in wait_records(kafka.bootstrap, topic, 3)] == [1, 1, 9000]
    broker.stop()
    broker.change(when_too_large="reject").start()
    with mqtt.Client(broker.port, "c", version) as client:
        client.send(mqtt.publish("t", b"x" * 10000, 1, client.next_id(), version))
        assert mqtt.Type.PUBACK not in [packet.type for packet in client.wait_closed(5)]
    mqtt.publish_all(broker.port, [("t", b"x" * 10000)], qos=0, version=version)
    mqtt.publish_all(broker.port, [("t", b"3")], version=version)
    metrics = broker.health.wait_drained(20)
    assert metrics.get(PREFIX + "messages_refused_total", reason="too_large") == 1
    assert metrics.get(PREFIX + "messages_dropped_total", reason="too_large") == 1
    assert metrics.delivered == 1
    metrics.check_ledger()


# --- order without a key ---


def test_order_without_keys(kafka: Cluster, make_broker: MakeBroker) -> None:
    """No key is written, and each MQTT topic is in one partition, that of its key elsewhere, in order."""
    n_partitions = 5
    topic = kafka.new_topic(n_partitions)
    broker = make_broker(
        {
            "kafka_broker": kafka.bootstrap,
            "kafka_topic": topic,
            "kafka_key": "none",
            "payload_format": "raw",
            "kafka_headers": "topic",
            "kafka_workers": 2,
        }
    ).start()
    names = [f"t/{n}" for n in range(40)]
    mqtt.publish_all(broker.port, [(name, b"%d" % i) for i in range(10) for name in names])
    broker.health.wait_drained(20)
    records = wait_records(kafka.bootstrap, topic, 400)
    for name in names:
        found = [r for r in records if _headers(r)["mqtt.topic"] == name.encode()]
        assert [r.value for r in found] == [b"%d" % i for i in range(10)]
        assert {r.key for r in found} == {None}
        assert {r.partition for r in found} == {murmur2.partition(name.encode(), n_partitions)}


# --- read and written by others ---


def _java(kafka: Cluster, name: str, *args: str, stdin: str = "") -> str:
    assert isinstance(kafka, Kafka)
    done = subprocess.run(
        [*kafka.java(), name, *args], input=stdin, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.filterwarnings("ignore:read_text is deprecated:DeprecationWarning")
def test_others_read_what_we_write(apache_kafka: Kafka, make_broker: MakeBroker) -> None:
    """Java's console consumer and a client in Python show keys, headers, values and partitions as they are meant; and
    Java's console producer puts the same keys into the same partitions."""
    kafka = apache_kafka
    n_partitions = 7
    topic, twin = kafka.new_topic(n_partitions), kafka.new_topic(n_partitions)
    broker = make_broker(
        [
            ("kafka_broker", kafka.bootstrap),
            ("kafka_topic", topic),
            ("payload_format", "raw"),
            ("kafka_headers", "qos,client_id,user"),
            ("kafka_key", "${topic[1]}/${clientid}"),
        ]
    ).start()
    keys = [f"{n}é{'k' * (n % 5)}/writer" for n in range(50)]
    with mqtt.Client(broker.port, "writer", mqtt.V5) as client:
        for n, key in enumerate(keys):
            client.publish(f"t/{key.split('/')[0]}", b"value %d" % n, 1, properties=mqtt.user_property("n", f"{n} ü"))
    broker.health.wait_drained(20)
    ours = {record.key: record for record in wait_records(kafka.bootstrap, topic, len(keys))}

    lines = _java(
        kafka, "org.apache.kafka.tools.consumer.ConsoleConsumer", "--bootstrap-server", kafka.bootstrap, "--topic",
        topic, "--from-beginning", "--max-messages", str(len(keys)), "--property", "print.key=true",
        "--property", "print.headers=true", "--property", "print.partition=true",
    ).splitlines()  # fmt: skip
    lines = [line for line in lines if line.startswith("Partition:")]  # it also logs there
    assert len(lines) == len(keys)
    for line in lines:
        partition, headers, key, value = line.split("\t")
        record = ours[key.encode()]
        assert partition == f"Partition:{record.partition}"
        assert value.encode() == record.value
        n = value.split()[1]
        user = f",mqtt.user.n:{n} ü" if broker.shows_properties() else ""
        assert headers == f"mm-id:{record.mm_id},mqtt.qos:1,mqtt.client_id:writer{user}"

    consumer = KafkaConsumer(bootstrap_servers=kafka.bootstrap, auto_offset_reset="earliest", consumer_timeout_ms=15000)
    consumer.assign([PythonTopicPartition(topic, p) for p in range(n_partitions)])
    seen = 0
    for message in consumer:
        record = ours[message.key]
        assert (message.partition, message.value) == (record.partition, record.value)
        assert tuple(message.headers) == record.headers
        assert message.timestamp == record.timestamp_ms
        seen += 1
        if seen == len(keys):
            break
    consumer.close()
    assert seen == len(keys)

    package = "org.apache.kafka.tools" if kafka.major_version >= 4 else "kafka.tools"
    _java(
        kafka, f"{package}.ConsoleProducer", "--bootstrap-server", kafka.bootstrap, "--topic", twin,
        "--property", "parse.key=true", "--property", "key.separator=;",
        stdin="".join(f"{key};v\n" for key in keys),
    )  # fmt: skip
    theirs = wait_until(lambda: read_topic(kafka.bootstrap, twin), 20, "Java has written")
    assert {record.key: record.partition for record in theirs} == {key: r.partition for key, r in ours.items()}
