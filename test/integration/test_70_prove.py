"""metamorphosis prove: it finds nothing where nothing is wrong, and finds what is.

The mutants are the plugin with one rule taken out of it (test/mutants): they are what a prover has to find.
"""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import MakeKafka, long_form
from harness.broker import mosquitto_binary, plugin_file, preloaded
from harness.kafka import Cluster
from harness.tool import Outcome, tool, tool_binary
from harness.wait import wait_until


@pytest.fixture
def prove(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """prove(kafka, ...): its arguments, for a broker with what the other tests' brokers have."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.setenv("TMPDIR", str(work))
    broker = mosquitto_binary()
    if preloaded():
        wrapper = tmp_path / "mosquitto"
        wrapper.write_text(f'#!/bin/sh\nLD_PRELOAD="{preloaded()} $LD_PRELOAD" exec "{broker}" "$@"\n')
        wrapper.chmod(0o755)
        broker = str(wrapper)

    def arguments(bootstrap: str, *args: str | Path) -> list[str]:
        settings = ["prove", "--json", "--kafka", bootstrap, "--mosquitto", broker]
        if "--plugin" not in args:
            settings += ["--plugin", str(plugin_file())]
        return [*settings, *(str(arg) for arg in args)]

    return arguments


def _left(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "work").iterdir())


@pytest.mark.parametrize("sync", ["interval", "always"])
def test_nothing_is_lost(
    kafka: Cluster, prove: Callable[..., list[str]], tmp_path: Path, figure: Callable[[str], None], sync: str
) -> None:
    """The broker is killed and stopped again and again: all is in Kafka, and nothing is left behind."""
    minutes = "30" if long_form() else "0.2"
    args = prove(kafka.bootstrap, "--minutes", minutes, "--kill-every", "1", "--option", f"spool_sync={sync}")
    outcome = tool(*args, timeout=60 * float(minutes) + 200)
    assert outcome.code == 0, outcome
    report = outcome.document
    assert report["good"] and report["kills"] >= 4 and report["acknowledged"] > 100
    assert report["lost"] == report["out_of_order"] == report["wrong"] == report["not_acknowledged"] == 0
    assert report["in_kafka"] == report["acknowledged"]
    assert not _left(tmp_path) and not kafka.has_topic(report["kafka_topic"])
    figure(f"{report['kills']} kills, {report['acknowledged']} acknowledged, 0 lost, {report['repeated']} repeated")


@pytest.mark.parametrize("rule", ["commit", "cursor"])
def test_a_mutant_is_found(
    kafka: Cluster, prove: Callable[..., list[str]], tmp_path: Path, figure: Callable[[str], None], rule: str
) -> None:
    """commit: a message is acknowledged before it is in the log. cursor: what was handed to the Kafka client is taken
    for delivered. Both lose messages when the broker is killed, and never else.

    Which kill finds it is chance; the run ends with the one that did, mostly among the first five of a hundred."""
    mutant = plugin_file().parent / f"metamorphosis_mutant_{rule}.so"
    args = prove(kafka.bootstrap, "--minutes", "2", "--kill-every", "1", "--plugin", mutant)
    outcome = tool(*args, timeout=240)
    assert outcome.code == 1, outcome
    report = outcome.document
    assert not report["good"] and report["lost"] > 0 and report["not_found_out"] == "", outcome
    assert report["wrong"] == 0
    (left,) = _left(tmp_path)
    assert f"left behind: {left}, Kafka topic {report['kafka_topic']}" in outcome.err
    assert (left / "spool" / "STATE").exists() and (left / "mosquitto.log").stat().st_size > 0
    figure(f"{report['kills']} kills, {report['lost']} of {report['acknowledged']} lost")


# What is written to the disk at once, or soon: the arguments of prove.
_ALWAYS = ["--power", "--option", "spool_sync=always"]
_SOON = ["--power", "--option", "spool_sync=interval", "--option", "spool_sync_interval_ms=50"]


@pytest.mark.parametrize("policy", [_ALWAYS, _SOON], ids=["always", "interval"])
def test_the_power_fails(
    kafka: Cluster, prove: Callable[..., list[str]], tmp_path: Path, figure: Callable[[str], None], policy: list[str]
) -> None:
    """Each time the broker finds what it had synced and a part of what it had not: with always all that it
    acknowledged is in Kafka, with interval all but what it acknowledged just before."""
    minutes = "20" if long_form() else "0.2"
    args = prove(kafka.bootstrap, "--minutes", minutes, "--kill-every", "1", *policy)
    outcome = tool(*args, timeout=60 * float(minutes) + 200)
    assert outcome.code == 0, outcome
    report = outcome.document
    assert report["good"] and report["power_failures"] >= 3 and report["acknowledged"] > 100
    assert report["lost"] == report["out_of_order"] == report["wrong"] == report["not_acknowledged"] == 0
    assert report["in_kafka"] + report["taken_by_power"] == report["acknowledged"]
    assert policy is not _ALWAYS or report["taken_by_power"] == 0
    assert not _left(tmp_path)
    figure(
        f"{report['power_failures']} power failures, {report['kills']} kills, {report['acknowledged']} acknowledged, "
        f"0 lost, {report['taken_by_power']} taken as the policy allows"
    )


@pytest.mark.parametrize(("rule", "policy"), [("sync_always", _ALWAYS), ("sync_interval", _SOON)])
def test_a_mutant_is_found_by_power_failures(
    kafka: Cluster, prove: Callable[..., list[str]], figure: Callable[[str], None], rule: str, policy: list[str]
) -> None:
    """sync_always: a message is acknowledged before the disk has it. sync_interval: when the disk gets it is left to
    the system. No kill shows that."""
    mutant = plugin_file().parent / f"metamorphosis_mutant_{rule}.so"
    args = prove(kafka.bootstrap, "--minutes", "3", "--kill-every", "1", "--plugin", mutant, *policy)
    outcome = tool(*args, timeout=230)
    assert outcome.code == 1, outcome
    report = outcome.document
    assert not report["good"] and report["lost"] > 0 and report["not_found_out"] == "", outcome
    assert report["wrong"] == 0
    figure(f"{report['power_failures']} power failures, {report['lost']} of {report['acknowledged']} lost")


def test_qos_2(
    kafka: Cluster, prove: Callable[..., list[str]], tmp_path: Path, figure: Callable[[str], None]
) -> None:
    """What got its PUBREC is in Kafka."""
    minutes = "10" if long_form() else "0.15"
    args = prove(kafka.bootstrap, "--minutes", minutes, "--kill-every", "1", "--qos", "2")
    outcome = tool(*args, timeout=60 * float(minutes) + 200)
    assert outcome.code == 0, outcome
    report = outcome.document
    assert report["good"] and report["qos"] == 2 and report["kills"] >= 3
    assert report["in_kafka"] == report["acknowledged"] > 100
    assert not _left(tmp_path)
    figure(f"{report['kills']} kills, {report['acknowledged']} of QoS 2, 0 lost")


def test_an_existing_topic(kafka: Cluster, prove: Callable[..., list[str]], tmp_path: Path) -> None:
    """What is in it already does not count, and it stays."""
    topic = kafka.new_topic(partitions=2)
    for _ in range(2):
        outcome = tool(*prove(kafka.bootstrap, "--minutes", "0.1", "--topic", topic, "--clients", "2"), timeout=200)
        assert outcome.code == 0 and outcome.document["kafka_topic"] == topic, outcome
    assert kafka.has_topic(topic) and not _left(tmp_path)


def test_it_can_be_interrupted(kafka: Cluster, prove: Callable[..., list[str]], tmp_path: Path) -> None:
    """A SIGINT ends the killing; what was acknowledged is judged all the same."""
    binary = tool_binary()
    started = time.monotonic()
    with subprocess.Popen(
        [binary, *prove(kafka.bootstrap, "--minutes", "60")], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        wait_until(lambda: bool(list((tmp_path / "work").glob("*/spool/*.seg"))), 30, "the broker has a spool")
        time.sleep(2)
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=120)
    outcome = Outcome(child.returncode, out, err)
    assert outcome.code == 0, outcome
    assert outcome.document["acknowledged"] > 0 and time.monotonic() - started < 120
    assert not _left(tmp_path)


def test_what_cannot_be_found_out_is_no_proof(
    kafka: Cluster, make_kafka: MakeKafka, prove: Callable[..., list[str]], tmp_path: Path, kafka_port_of_nobody: int
) -> None:
    """Kafka away at the start or at the end, a broker that does not start: exit code 1, and why."""
    away = tool(*prove(f"127.0.0.1:{kafka_port_of_nobody}", "--minutes", "0.1"), timeout=100)
    assert away.code == 1 and "Kafka was not reached at " in away.err
    none = tool(*prove(kafka.bootstrap, "--minutes", "0.1", "--topic", "not-there"), timeout=100)
    assert none.code == 1 and "Kafka topic not-there: " in none.err
    bad = tool(*prove(kafka.bootstrap, "--minutes", "0.1", "--option", "spool_sync=perhaps"), timeout=100)
    assert bad.code == 1 and "spool_sync" in bad.err and "expected never, interval or always" in bad.err
    never = tool(*prove(kafka.bootstrap, "--power", "--option", "spool_sync=never"), timeout=100)
    assert never.code == 1 and "with spool_sync never nothing is promised" in never.err
    assert not _left(tmp_path)
    full = tool(*prove(kafka.bootstrap, "--minutes", "0.1", "--mosquitto", "/bin/false"), timeout=100)
    assert full.code == 1 and full.document["not_found_out"] == "the broker ended with exit code 1"
    node = make_kafka()
    node.start()
    binary = tool_binary()
    with subprocess.Popen(
        [binary, *prove(node.bootstrap, "--minutes", "0.1")], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        wait_until(lambda: len(list((tmp_path / "work").glob("*/spool/*.seg"))) > 0, 30, "the broker has a spool")
        time.sleep(1)
        node.kill()
        out, err = child.communicate(timeout=200)
    outcome = Outcome(child.returncode, out, err)
    assert outcome.code == 1 and not outcome.document["good"], outcome
    assert "wait in the spool" in outcome.document["not_found_out"], outcome


def test_use(prove: Callable[..., list[str]]) -> None:
    for args in (
        [],
        ["--minutes", "0"],
        ["--minutes", "1x"],
        ["--rate", "0"],
        ["--option", "spool_sync"],
        ["--clients", "1001"],
        ["--qos", "0"],
        ["more"],
        ["--unknown"],
    ):
        wanted = [] if args else ["prove"]
        assert tool(*(wanted or prove("127.0.0.1:1", *args))).code == 2, args
    missing = tool("prove", "--kafka", "127.0.0.1:1", "--plugin", "/nowhere/metamorphosis.so")
    assert missing.code == 1 and '--plugin "/nowhere/metamorphosis.so": no such file' in missing.err
    assert "--kill-every S" in tool("prove", "--help").out
