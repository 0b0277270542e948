"""Every mistake in the configuration is found at start and named."""

from __future__ import annotations

import re
import socket

import pytest

from conftest import MakeBroker
from harness import mqtt, ports
from harness.consumer import wait_records
from harness.kafka import Cluster

# Option, bad values.
_BAD: dict[str, list[str]] = {
    "mqtt_topic": ["a/#/b", "a+/b", "a/b#", "a,,b", "a;", "$share/group/a"],
    "kafka_broker": ["localhost:0", "localhost:65536", "localhost:", ":9092", "a b", "localhost,", "a:1:2", "[::1"],
    "kafka_port": ["0", "65536", "9092x", "-1", "1e3", "0x10", "9 092"],
    "kafka_topic": ["a/b", "a b", ".", "..", "æ", "x" * 250],
    "route": ["a", "a/#/b t", "a t kei=x", "a b c", "a,,b t", "a t/u", "$share/group/a t"],
    "kafka_workers": ["0", "65", "two", "1.5", "-1", "+1", "99999999999999999999"],
    "kafka_retry_interval": ["0", "10s", "3601", "-5"],
    "kafka_test_message": ["maybe", "2"],
    "kafka_test_topic": ["a b", "x" * 250],
    "json_field_names": ["Topic", "a,b,c", "a,a", ",b", "a,"],
    "spool_max_bytes": ["1", "1X", "-1M", "1MB2", "99999999999999999999", "16777216G", "1 M", "M"],
    "spool_dir": ["spool", "./spool", "~/spool"],
    "spool_sync": ["often", "fsync"],
    "spool_sync_interval_ms": ["9", "60001", "500ms"],
    "spool_min_free": ["5%", "-1", "1025G"],
    "spool_writer": ["write"],
    "when_full": ["block", "drop"],
    "dead_letter_max_bytes": ["0", "255k", "auto"],
    "dead_letter_topic": ["a b", "x" * 250, "mqtt"],
    "refuse_v5": ["close"],
    "health_port": ["65536", "http", "-1"],
    "health_address": ["localhost", "1.2.3", "::g"],
    "log_level": ["verbose", "4"],
}
_PAIRS = [(name, value) for name, values in _BAD.items() for value in values]

_MISSPELT = {
    "kafka_brokr": "kafka_broker",
    "kafka-topic": "kafka_topic",
    "KAFKA_TOPIC": "kafka_topic",
    "kafka_wokers": "kafka_workers",
    "spool_max_byte": "spool_max_bytes",
    "when_ful": "when_full",
    "helth_port": "health_port",
    "loglevel": "log_level",
    "mqtt_topics": "mqtt_topic",
    "linger.ms": "rdkafka.linger.ms",
}

# Properties of librdkafka: unknown to it, wrong for it, or such that the promise would break.
_PROPERTIES = {
    "rdkafka.no.such.property": "1",
    "rdkafka.linger.ms": "soon",
    "rdkafka.message.max.bytes": "1",
    "rdkafka.acks": "1",
    "rdkafka.enable.idempotence": "false",
    "rdkafka.message.timeout.ms": "1000",
    "rdkafka.bootstrap.servers": "elsewhere:9092",
    "rdkafka.transactional.id": "x",
    "rdkafka.": "x",
}


def _refused(make_broker: MakeBroker, *args: object, **kwargs: object) -> str:
    """The broker refuses to start, by an exit code of its own and not by a crash. Returns its log."""
    code, log = make_broker(*args, **kwargs).run_refused()
    assert code > 0, f"exit code {code}\n{log}"
    return log


def _lines(log: str, *parts: str) -> list[str]:
    return [line for line in log.splitlines() if all(part in line for part in parts)]


@pytest.mark.parametrize(("name", "value"), _PAIRS, ids=[f"{n}={v[:20]}" for n, v in _PAIRS])
def test_bad_value(make_broker: MakeBroker, name: str, value: str) -> None:
    """A bad value: the start is refused, and one line has the option, the value found and what was expected."""
    log = _refused(make_broker, {name: value})
    assert _lines(log, "metamorphosis: ", f"option {name}", f'"{value[:60]}', "expected"), log


@pytest.mark.parametrize("name", _BAD)
def test_empty_value(make_broker: MakeBroker, name: str) -> None:
    """Nothing, or nothing but blanks: refused with the name of the option, by the broker itself or by the plugin."""
    assert _lines(_refused(make_broker, {name: ""}), name)
    assert _lines(_refused(make_broker, {name: "   "}), name)


@pytest.mark.parametrize("name", [*_BAD, "rdkafka.client.id", "x" * 50_000])
def test_huge_value(make_broker: MakeBroker, name: str) -> None:
    """100,000 bytes of a value (and of a name): refused or taken, with a log line of sane length, and no crash."""
    broker = make_broker({name: "9" * 100_000})
    if name == "rdkafka.client.id":
        broker.start()
        broker.stop()
        return
    code, log = broker.run_refused()
    assert code > 0, log
    found = _lines(log, "metamorphosis: ", name[:20])
    assert found, log[:2000]
    assert all(len(line) < 1000 for line in found)


@pytest.mark.parametrize(("wrong", "right"), _MISSPELT.items())
def test_misspelt_name(make_broker: MakeBroker, wrong: str, right: str) -> None:
    """An unknown option is an error that names the nearest known one."""
    log = _refused(make_broker, {wrong: "1"})
    assert _lines(log, wrong, "unknown", f"did you mean {right}?"), log


def test_unknown_name(make_broker: MakeBroker) -> None:
    """An option that resembles none is refused without a wild guess."""
    log = _refused(make_broker, {"frobnicate": "1"})
    assert _lines(log, "frobnicate", "unknown") and "did you mean" not in log, log


@pytest.mark.parametrize(("name", "value"), _PROPERTIES.items())
def test_bad_property_of_librdkafka(make_broker: MakeBroker, name: str, value: str) -> None:
    """rdkafka.<property>: refused by its name when librdkafka does not take it, or when it would break the promise."""
    log = _refused(make_broker, {name: value})
    assert _lines(log, "metamorphosis: ", name.removeprefix("rdkafka.")), log


def test_secret_is_not_logged(make_broker: MakeBroker) -> None:
    """The value of a password is in no line, neither when all is well nor when something is wrong with it."""
    options = {"rdkafka.sasl.password": "s3cr3t-1", "rdkafka.ssl.key.password": "s3cr3t-2", "kafka_workers": "0"}
    assert "s3cr3t" not in _refused(make_broker, options)
    options = {"rdkafka.sasl.password": "s3cr3t-1", "log_level": "trace"}
    broker = make_broker(options, config_lines=["log_type all"]).start()
    broker.stop()
    assert "s3cr3t" not in broker.logs()


def test_given_twice(make_broker: MakeBroker) -> None:
    """An option that is given twice is an error: which one counts would be a guess."""
    log = _refused(make_broker, [("kafka_topic", "one"), ("kafka_topic", "two")])
    assert _lines(log, "kafka_topic", "one", "two"), log


def test_topics_that_collide(make_broker: MakeBroker) -> None:
    """Kafka topics that differ in '.' and '_' alone: refused with the reason, since Kafka has only one of them."""
    log = _refused(make_broker, [("kafka_topic", "a.b"), ("route", "x a_b")])
    assert _lines(log, "option route", '"a.b"', '"a_b"', "Kafka's metrics"), log


def test_no_effect_in_memory(make_broker: MakeBroker) -> None:
    """Options of the spool on disk without spool_dir: a warning names them, and the broker starts."""
    broker = make_broker({"spool_sync": "always"}, env={"SPOOL_WRITER": "mmap"}).start()
    broker.wait_log("no effect on a spool in memory.*: spool_sync, SPOOL_WRITER")


def test_all_mistakes_at_once(make_broker: MakeBroker) -> None:
    """Three mistakes, three lines: nobody has to start the broker three times to find them."""
    log = _refused(make_broker, {"kafka_workers": "0", "when_full": "never", "kafka_tpic": "t"})
    for name in ("kafka_workers", "when_full", "kafka_tpic"):
        assert _lines(log, "metamorphosis: ", name), log


def test_bad_environment(make_broker: MakeBroker) -> None:
    """A bad value from the environment is named as such."""
    log = _refused(make_broker, env={"KAFKA_WORKERS": "many"})
    assert _lines(log, "environment variable KAFKA_WORKERS", '"many"', "expected"), log


def test_health_port_taken(make_broker: MakeBroker) -> None:
    """A health port on which somebody else listens: refused with address and port."""
    port = ports.free_port()
    with socket.create_server(("127.0.0.1", port)):
        log = _refused(make_broker, {"health_port": port})
    assert _lines(log, "metamorphosis: ", f"127.0.0.1:{port}") or _lines(log, "127.0.0.1", str(port)), log
    assert re.search("[Aa]ddress already in use", log), log


def test_no_http(make_broker: MakeBroker) -> None:
    """health_port 0 switches HTTP off."""
    broker = make_broker({"health_port": 0}).start()
    assert broker.listening_ports() == {broker.port}


def test_unusual_but_right(kafka: Cluster, make_broker: MakeBroker) -> None:
    """Blanks around values, capitals in words, suffixes, the borders of the ranges: all taken as meant."""
    topic = kafka.new_topic()
    broker = make_broker(
        {
            "mqtt_topic": "  a/+ ; b/# , $own/#  ",
            "kafka_broker": f" {kafka.bootstrap} ",
            "kafka_topic": f"  {topic}   ",
            "kafka_workers": "64 ",
            "kafka_retry_interval": "3600",
            "kafka_test_message": "FALSE",
            "json_field_names": " t , c ",
            "spool_max_bytes": "1g",
            "when_full": "Reject",
            "refuse_v5": "disconnect",
            "health_address": " 127.0.0.1",
            "log_level": "WARN",
            "rdkafka.linger.ms": " 1 ",
        }
    ).start()
    metrics = broker.health.scrape()
    assert metrics.get("metamorphosis_spool_limit_bytes") == 1024**3
    assert len(metrics.labelled("metamorphosis_kafka_up", "worker")) == 64
    mqtt.publish_all(broker.port, [("a/1", b"x")])
    (record,) = wait_records(kafka.bootstrap, topic, 1)
    assert record.value == b'{"t":"a/1","c":"eA=="}'


def test_names_of_the_go_program(kafka: Cluster, make_broker: MakeBroker) -> None:
    """Its misspelt kakfa_port is taken as kafka_port, and its settings that mean nothing here are named and ignored."""
    topic = kafka.new_topic()
    host, _, port = kafka.bootstrap.rpartition(":")
    broker = make_broker(
        {"kafka_broker": host, "kakfa_port": port, "kafka_topic": topic, "mqtt_tls": "true", "kafka_batch_size": "10"}
    ).start()
    mqtt.publish_all(broker.port, [("a", b"x")])
    wait_records(kafka.bootstrap, topic, 1)
    broker.wait_log("ignored: .*mqtt_tls")
    broker.wait_log("ignored: .*kafka_batch_size")
    broker.wait_log("kakfa_port")
