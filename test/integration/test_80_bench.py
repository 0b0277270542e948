"""The benchmarks still run, each of them, and a comparison finds what has become worse, and only that."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from harness.kafka import Cluster
from harness.wait import wait_until

_ROOT = Path(__file__).resolve().parents[2]
_BENCH = _ROOT / "bench"
_RESULTS = _BENCH / "results.json"

# By variant, a figure that only a measurement gives.
_FIGURES = {
    "speed": {"bare": "main_us", "a thread alone": "main_us", "into Kafka": "delivered_rate",
              "Kafka away": "callback_p999_ns", "bare producer": "delivered_rate"},
    "scale": {"bare": "main_us", "into Kafka": "delivered_rate"},
    "spool": {"bare": "main_us", "memory; Kafka away": "rate", "disk, synced never; into Kafka": "delivered_rate",
              "disk, synced always": "delivered_rate"},
    "latency": {"bare": "puback_p99.9_ms", "into Kafka": "kafka_p99.9_ms"},
    "drain": {"bare, alone": "puback_p99_ms", "bare producer": "drained_rate", "backlog drained": "drained_rate"},
    "start": {"without plugin": "start_ms", "no backlog": "rss_anon_mib", "256 MiB of backlog": "start_ms"},
}  # fmt: skip


def _bench(*arguments: object) -> subprocess.CompletedProcess[str]:
    """bench/run without its building."""
    argv = [sys.executable, _BENCH / "bench.py", *arguments]
    return subprocess.run([str(part) for part in argv], capture_output=True, text=True, check=False, timeout=200)


# --- every measurement ---


@pytest.mark.parametrize("group", _FIGURES)
def test_each_measurement(kafka: Cluster, tmp_path: Path, group: str) -> None:
    """A few messages each: all that the plan has is measured, nothing is lost on the way, and the figures can be kept,
    shown, drawn, and compared with themselves."""
    file, picture = tmp_path / "results.json", tmp_path / "picture.svg"
    arguments = ["--tiny", "--only", group, *(["--floor"] if group == "speed" else [])]
    planned = _bench(*arguments, "--list").stdout.splitlines()
    done = _bench(*arguments, "--kafka", kafka.bootstrap, "--work", tmp_path, "--json", file)
    assert done.returncode == 0, done.stderr
    content = json.loads(file.read_text())
    cells = {f"{group}: {entry['row']}, {entry['variant']}": entry for entry in content["results"]}
    assert sorted(cells) == sorted(planned)
    assert {"mosquitto", "plugin", "kafka", "cpu", "kernel", "revision"} <= set(content["about"])
    for variant, figure in _FIGURES[group].items():
        found = [entry for entry in cells.values() if entry["variant"] == variant]
        assert found, f"no {variant} among {list(cells)}"
        for entry in found:
            (turns,) = entry["rounds"]
            assert all(turn[figure] > 0 for turn in turns[-1:]), entry
    assert _bench("show", file).stdout.strip() in done.stdout
    assert _bench("plot", file, picture).returncode == 0
    texts = [element.text or "" for element in ElementTree.parse(picture).iter() if element.tag.endswith("}text")]
    assert any(content["about"]["revision"] in text for text in texts)
    assert len(list(ElementTree.parse(picture).iter("{http://www.w3.org/2000/svg}rect"))) >= 3
    same = _bench("compare", file, file)
    assert same.returncode == 0 and " 0 worse, 0 better" in same.stdout, same.stdout + same.stderr


def test_a_loss_is_no_figure(kafka: Cluster, tmp_path: Path) -> None:
    """A backlog of 1 MiB in a spool with room for half of it: messages are missing, so nothing is measured."""
    file = tmp_path / "results.json"
    done = _bench(
        *("--tiny", "--only", "drain", "--option", "spool_max_bytes=512k"),
        *("--kafka", kafka.bootstrap, "--work", tmp_path, "--json", file),
    )
    assert done.returncode == 1
    assert "FAILED" in done.stderr and "dropped" in done.stderr
    assert not file.exists()


# --- comparing ---

_ABOUT = {
    "date": "2026-01-01T00:00:00Z", "revision": "abc", "mosquitto": "2.0.11", "plugin": "1", "kafka": "4", "cpus": 2,
    "kernel": "6", "cpu": "a CPU", "memory_gib": 8, "disk": "ext4", "load_at_start": 0.0, "rounds": 5, "turns": 2,
    "form": "full", "options": [],
}  # fmt: skip

Change = Callable[[dict[str, float], str, int], None]


def _results(path: Path, change: Change | None = None, about: Mapping[str, object] | None = None) -> Path:
    """Results as a run would leave them, with noise of 2 %; change(turn, variant, round) makes other ones of them."""
    plain = {
        "bare": {"rate": 100e3, "main_us": 5.0, "process_us": 5.0},
        "into Kafka": {"rate": 90e3, "delivered_rate": 88e3, "main_us": 5.2, "process_us": 6.5, "rss_anon_mib": 20.0,
                       "callback_p50_ns": 100.0},
        "bare producer": {"delivered_rate": 120e3, "process_us": 1.0},
    }  # fmt: skip
    noise = [1.0, 0.98, 1.01, 0.99, 1.02]
    results = []
    for v, (variant, figures) in enumerate(plain.items()):
        rounds = []
        for r in range(5):
            turns = [{name: value * noise[(r + t + v) % 5] for name, value in figures.items()} for t in range(2)]
            for turn in turns:
                if change is not None:
                    change(turn, variant, r)
            rounds.append(turns)
        results.append({"row": "100 B QoS 1", "variant": variant, "rounds": rounds})
    path.write_text(json.dumps({"schema": 2, "about": _ABOUT | dict(about or {}), "results": results}))
    return path


def _scaled(variant: str, name: str, factor: float) -> Change:
    def change(turn: dict[str, float], of: str, _: int) -> None:
        if of == variant:
            turn[name] *= factor

    return change


@pytest.mark.parametrize(
    ("name", "factor", "told"),
    [
        ("main_us", 1.20, "CPU of the broker's thread / bare"),
        ("process_us", 1.20, "CPU of all threads / bare"),
        ("rate", 0.75, "publisher's rate / bare"),
        ("delivered_rate", 0.75, "delivered / bare producer"),
        ("rss_anon_mib", 1.5, "RSS without mapped files, MiB"),
        ("callback_p50_ns", 5.0, "callback p50, ns"),
    ],
)
def test_what_is_worse_is_found(tmp_path: Path, name: str, factor: float, told: str) -> None:
    """Each kind of figure, made worse by more than the noise: named, and exit code 1. The other way round, the same
    change is better, and no reason to fail."""
    old = _results(tmp_path / "old.json")
    new = _results(tmp_path / "new.json", _scaled("into Kafka", name, factor))
    done = _bench("compare", old, new)
    assert done.returncode == 1, done.stdout + done.stderr
    (line,) = [line for line in done.stdout.splitlines() if told in line]
    assert line.endswith("WORSE"), line
    back = _bench("compare", new, old)
    assert back.returncode == 0 and " 0 worse" in back.stdout, back.stdout
    (line,) = [line for line in back.stdout.splitlines() if told in line]
    assert line.endswith("better"), line


@pytest.mark.parametrize(("name", "factor"), [("main_us", 1.03), ("rate", 0.95), ("rss_anon_mib", 1.1)])
def test_noise_is_not_found(tmp_path: Path, name: str, factor: float) -> None:
    """Less than a figure's margin is nothing."""
    old = _results(tmp_path / "old.json")
    done = _bench("compare", old, _results(tmp_path / "new.json", _scaled("into Kafka", name, factor)))
    assert done.returncode == 0 and " 0 worse, 0 better" in done.stdout, done.stdout


def test_rounds_that_are_far_apart_widen_the_noise(tmp_path: Path) -> None:
    """By 20 % more, but its own rounds differ by 60 %: that says nothing."""

    def change(turn: dict[str, float], variant: str, number: int) -> None:
        if variant == "into Kafka":
            turn["main_us"] *= 1.2 * (0.7, 0.85, 1.0, 1.15, 1.3)[number]

    old = _results(tmp_path / "old.json")
    done = _bench("compare", old, _results(tmp_path / "new.json", change))
    assert done.returncode == 0 and " 0 worse" in done.stdout, done.stdout


def test_a_slower_day_is_not_found(tmp_path: Path) -> None:
    """Everything takes half as long again, bare broker and producer too: the ratios are the same."""

    def change(turn: dict[str, float], _: str, __: int) -> None:
        for name in turn:
            if name.endswith("_us"):
                turn[name] *= 1.5
            elif name.endswith("rate"):
                turn[name] /= 1.5

    old = _results(tmp_path / "old.json")
    done = _bench("compare", old, _results(tmp_path / "new.json", change))
    assert done.returncode == 0 and " 0 worse, 0 better" in done.stdout, done.stdout


def test_two_rounds_are_too_few(tmp_path: Path) -> None:
    """Twice as much, but who knows what a third round would have said: told, and not judged."""
    new = _results(tmp_path / "new.json", _scaled("into Kafka", "main_us", 2.0))
    content = json.loads(new.read_text())
    for entry in content["results"]:
        del entry["rounds"][2:]
    new.write_text(json.dumps(content))
    done = _bench("compare", _results(tmp_path / "old.json"), new)
    assert done.returncode == 0 and "too few rounds" in done.stdout and " 0 worse" in done.stdout, done.stdout


def test_a_busy_machine_is_judged_by_its_cpu_time_alone(tmp_path: Path) -> None:
    """Half the rate may be the other work's doing; a fifth more CPU is not."""
    old, other = _results(tmp_path / "old.json"), {"load_at_start": 3.0}
    slow = _bench("compare", old, _results(tmp_path / "s.json", _scaled("into Kafka", "rate", 0.5), other))
    assert slow.returncode == 0 and "other work ran" in slow.stdout and "not judged" in slow.stdout, slow.stdout
    dear = _bench("compare", old, _results(tmp_path / "d.json", _scaled("into Kafka", "main_us", 1.2), other))
    assert dear.returncode == 1, dear.stdout


def test_the_margin_can_be_wider(tmp_path: Path) -> None:
    old = _results(tmp_path / "old.json")
    new = _results(tmp_path / "new.json", _scaled("into Kafka", "main_us", 1.2))
    assert _bench("compare", old, new, "--margin", 30).returncode == 0


def test_another_machine_is_told_and_only_ratios_count(tmp_path: Path) -> None:
    """Memory twice as large on another machine is not judged; a ratio is."""
    old = _results(tmp_path / "old.json")
    other = {"cpu": "another CPU"}
    memory = _bench("compare", old, _results(tmp_path / "m.json", _scaled("into Kafka", "rss_anon_mib", 2), other))
    assert memory.returncode == 0 and "not the same: cpu: a CPU, now another CPU" in memory.stdout, memory.stdout
    ratio = _bench("compare", old, _results(tmp_path / "r.json", _scaled("into Kafka", "main_us", 1.2), other))
    assert ratio.returncode == 1


def test_rows_that_are_gone_are_told(tmp_path: Path) -> None:
    old = _results(tmp_path / "old.json")
    content = json.loads(old.read_text())
    content["results"] += [entry | {"row": "1 KiB QoS 1"} for entry in content["results"]]
    old.write_text(json.dumps(content))
    done = _bench("compare", old, _results(tmp_path / "new.json"))
    assert done.returncode == 0 and f"only in {old}: 1 KiB QoS 1" in done.stdout


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema": 1, "about": {}, "results": []}'])
def test_what_is_no_results(tmp_path: Path, text: str) -> None:
    old, bad = _results(tmp_path / "old.json"), tmp_path / "bad.json"
    bad.write_text(text)
    done = _bench("compare", old, bad)
    assert done.returncode == 2 and str(bad) in done.stderr and "Traceback" not in done.stderr, done.stderr


# --- what is published ---


def test_the_document_shows_the_results() -> None:
    """The figures in docs/performance.md are those of the file beside the benchmarks, and so is the picture."""
    shown = _bench("show", "--markdown", _RESULTS)
    assert shown.returncode == 0, shown.stderr
    text = (_ROOT / "docs" / "performance.md").read_text()
    assert shown.stdout.strip() in text, "make them again: bench/run show --markdown bench/results.json"
    planned = {line.partition(": ")[2] for line in _bench("--list").stdout.splitlines()}
    found = {f"{entry['row']}, {entry['variant']}" for entry in json.loads(_RESULTS.read_text())["results"]}
    assert planned <= found, planned - found


def test_the_picture_shows_the_results(tmp_path: Path) -> None:
    picture = tmp_path / "picture.svg"
    assert _bench("plot", _RESULTS, picture).returncode == 0
    assert picture.read_text() == (_ROOT / "docs" / "performance.svg").read_text(), "make it again: bench/run plot"


# --- the command ---


def test_pieces_make_a_whole(kafka: Cluster, tmp_path: Path) -> None:
    """--add leaves what was measured of other rows, and replaces those measured again."""
    file = tmp_path / "results.json"

    def rows_after(*rows: str) -> dict[str, object]:
        chosen = [part for row in rows for part in ("--row", row)]
        done = _bench("--tiny", "--only", "latency", *chosen, "--kafka", kafka.bootstrap, "--json", file, "--add",
                      "--work", tmp_path)  # fmt: skip
        assert done.returncode == 0, done.stderr
        return {f"{e['row']}, {e['variant']}": e["rounds"] for e in json.loads(file.read_text())["results"]}

    first = rows_after("100 msg/s")
    both = rows_after("2,000 msg/s")
    assert len(both) == 4 and first.items() <= both.items()
    again = rows_after("100 msg/s")
    assert sorted(again) == sorted(both) and again["100 msg/s, bare"] != first["100 msg/s, bare"]


def test_what_is_ended_early_keeps_its_rounds(kafka: Cluster, tmp_path: Path) -> None:
    """SIGTERM in the middle of many rounds: those that are over are in the file, and nothing is left behind."""
    file, work = tmp_path / "results.json", tmp_path / "work"
    work.mkdir()
    argv = [sys.executable, _BENCH / "bench.py", "--tiny", "--rounds", 1000, "--only", "latency", "--row", "100 msg/s",
            "--kafka", kafka.bootstrap, "--work", work, "--json", file]  # fmt: skip
    process = subprocess.Popen([str(part) for part in argv], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_until(lambda: file.exists() and "puback_p50_ms" in file.read_text(), 60, "a round is over")
    process.terminate()
    assert process.wait(30) == 128 + signal.SIGTERM
    shown = _bench("show", file)
    assert shown.returncode == 0 and "100 msg/s" in shown.stdout, shown.stderr
    assert list(work.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(["--help"], 0), (["--quick", "--help"], 0), (["compare", "--help"], 0), (["append", "--help"], 0), (["--list"], 0), (["--ronds", "3"], 2),
     (["--only", "sped"], 2), (["--row", "no such row"], 2), (["compare", "one"], 2)],
)  # fmt: skip
def test_a_question_or_a_mistake_builds_nothing(tmp_path: Path, arguments: list[str], code: int) -> None:
    """bench/run itself: neither apt nor cmake is called before it is clear that something is to be measured."""
    called = tmp_path / "called"
    for name in ("apt-get", "cmake", "dpkg-query"):
        stub = tmp_path / "bin" / name
        stub.parent.mkdir(exist_ok=True)
        stub.write_text(f"#!/bin/sh\necho {name} >>{called}\nexit 1\n")
        stub.chmod(0o755)
    env = os.environ | {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    done = subprocess.run(
        [str(_BENCH / "run"), *arguments], env=env, capture_output=True, text=True, check=False, timeout=30
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert not called.exists(), called.read_text()
    assert "usage" in done.stdout + done.stderr or code == 0 or "--list" in done.stderr, done.stderr
    # The stubs are those that would have been called.
    build = subprocess.run([str(_BENCH / "run"), "append"], env=env, capture_output=True, check=False, timeout=30)
    assert build.returncode != 0 and called.exists()
