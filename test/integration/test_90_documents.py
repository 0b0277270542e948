"""The documents tell what the program does."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from conftest import MakeBroker
from harness import mqtt
from harness.broker import Broker, plugin_file
from harness.consumer import wait_records
from harness.kafka import Cluster
from harness.secure import SecureKafka
from harness.tool import good, tool, tool_binary

_ROOT = Path(__file__).resolve().parents[2]
_EXAMPLE = _ROOT / "mosquitto.conf.example"
_OPTIONS = _ROOT / "docs" / "options.md"
_METRICS = _ROOT / "docs" / "metrics.md"
_DURABILITY = _ROOT / "docs" / "durability.md"
_README = _ROOT / "README.md"
_FAILURES = _ROOT / "docs" / "failures.md"
_GUARANTEES = _ROOT / "docs" / "guarantees.md"
_OPERATIONS = _ROOT / "docs" / "operations.md"

# The options of a secured Kafka: not all of them at once make sense.
_SECURITY = r"kafka_(security|tls|sasl|oauth|kerberos)_"
_OPTION_LINE = re.compile(r"^(?P<off>#?)plugin_opt_(?P<name>\S+) (?P<value>.+)$")


def _reference() -> str:
    """What `metamorphosis options` prints. The tool lies beside the plugin, in bin."""
    tool = tool_binary()
    assert tool.exists(), f"no tool at {tool}: build it"
    return subprocess.run([str(tool), "options"], capture_output=True, text=True, check=True).stdout


def _known_options() -> dict[str, str | None]:
    """Each option with its default, as the reference's table has them; None: it has no default."""
    default = r"(?:`([^`]*)`(?:, or `\w+` when `spool_dir` is set)?|not set)"
    rows = re.findall(rf"^\| `(\w+)` \| `\w+` \| {default} \|", _reference(), re.MULTILINE)
    assert len(rows) > 10, "the reference has another form than it had"
    return {name: default or None for name, default in rows}


@dataclass(frozen=True)
class _Entry:
    comment: str  # the lines above, up to an empty one
    value: str
    is_set: bool  # not commented out


def _example_options() -> list[tuple[str, _Entry]]:
    """The plugin's options in the example, in its order."""
    found = []
    comment: list[str] = []
    for line in _EXAMPLE.read_text().splitlines():
        option = _OPTION_LINE.match(line)
        if option:
            found.append((option["name"], _Entry("\n".join(comment), option["value"], not option["off"])))
        comment = [*comment, line.removeprefix("#").strip()] if line.startswith("#") and not option else []
    return found


def test_option_reference() -> None:
    """docs/options.md is what the tool prints."""
    assert _OPTIONS.read_text() == _reference(), f"make it again: metamorphosis options > {_OPTIONS}"


def test_the_manual_page_of_the_options() -> None:
    """docs/man/mosquitto_metamorphosis.7 is what the tool prints."""
    assert (_ROOT / "docs" / "man" / "mosquitto_metamorphosis.7").read_text() == good("options", "--man").out


def test_the_manual_page_of_the_tool() -> None:
    """docs/man/metamorphosis.1 has the commands that the tool has."""
    page = (_ROOT / "docs" / "man" / "metamorphosis.1").read_text()
    explained = {line.split()[2] for line in page.splitlines() if line.startswith(".It Cm ")}
    commands = set(re.findall(r"^  ([a-z-]+)\b", good("--help").out, re.MULTILINE))
    assert len(commands) >= 8
    assert explained == commands
    spool = set(re.findall(r"^\.It Cm spool ([a-z]+)", page, re.MULTILINE))
    assert spool == set(re.findall(r"^  ([a-z]+) ", tool("spool").err, re.MULTILINE))


def test_every_option_is_in_the_example() -> None:
    """Each option stands once in mosquitto.conf.example with a text and its default, commented out with the default as
    its value or set; and nothing else stands there but properties of librdkafka."""
    known = _known_options()
    entries = [(name, entry) for name, entry in _example_options() if not name.startswith("rdkafka.")]
    assert sorted(name for name, _ in entries) == sorted(known)
    for name, entry in entries:
        default = known[name]
        texts = re.findall(r"^Default: (.*)$", entry.comment, re.MULTILINE)
        assert len(texts) == 1, f"{name}: not one line with its default"
        assert re.match(re.escape(default or "not set") + r"($|, or )", texts[0]), f"{name}: the default is {default}"
        assert len(entry.comment.splitlines()) > 1, f"{name}: not a word about it"
        if not entry.is_set and default is not None:
            assert entry.value == default, f"{name}: commented out with another value than its default"


def _replace(text: str, pattern: str, by: str) -> str:
    """Replace the one line that matches."""
    changed, n = re.subn(pattern, lambda _: by, text, flags=re.MULTILINE)
    assert n == 1, f"{n} lines of {_EXAMPLE.name} match {pattern}"
    return changed


def _use_example(broker: Broker, kafka: Cluster, topic: str, text: str) -> None:
    """Give the broker the example as its configuration, with addresses, ports and paths of this test."""
    text = _replace(text, r"^listener 1883 127\.0\.0\.1$", f"listener {broker.port} 127.0.0.1")
    text = _replace(text, r"^plugin \S+$", f"plugin {plugin_file()}")
    text = _replace(text, r"^plugin_opt_kafka_broker .*$", f"plugin_opt_kafka_broker {kafka.bootstrap}")
    text = _replace(text, r"^plugin_opt_kafka_topic .*$", f"plugin_opt_kafka_topic {topic}")
    text = _replace(text, r"^#?plugin_opt_health_port .*$", f"plugin_opt_health_port {broker.health_port}")
    text += f"log_dest file {broker.directory / 'mosquitto.log'}\n"
    if os.getuid() == 0:
        text += "user root\n"
    broker.config.write_text(text)


@pytest.mark.parametrize("everything", [False, True], ids=["as it stands", "with every option set"])
def test_the_example_works(kafka: Cluster, make_broker: MakeBroker, everything: bool) -> None:
    """A real broker starts with mosquitto.conf.example, and a message arrives in Kafka; also with all that is commented
    out in use, but for the properties of librdkafka and the options of security, of which some exclude each other."""
    topic = kafka.new_topic()
    text = _EXAMPLE.read_text()
    if everything:
        text = re.sub(rf"^#(?=plugin_opt_(?!rdkafka\.|{_SECURITY})|max_packet_size )", "", text, flags=re.MULTILINE)
        used = [name for name in _known_options() if not re.match(_SECURITY, name)]
        assert len(re.findall(r"^plugin_opt_", text, re.MULTILINE)) == len(used) > 20
        for name in ("kafka_test_topic", "dead_letter_topic"):
            text = _replace(text, rf"^plugin_opt_{name} .*$", f"plugin_opt_{name} {kafka.new_topic()}")
        route = r"(?<=^plugin_opt_route plant/\+/alarm,office/\+/alarm )alarms(?= format=raw$)"
        text = _replace(text, route, kafka.new_topic())
    broker = make_broker()
    text = _replace(text, r"^plugin_opt_spool_dir .*$", f"plugin_opt_spool_dir {broker.directory / 'spool'}")
    if everything:
        file = broker.directory / "metamorphosis.conf"
        file.write_text("# nothing more\n")
        text = _replace(text, r"^plugin_opt_config_file .*$", f"plugin_opt_config_file {file}")
    _use_example(broker, kafka, topic, text)
    broker.start()
    mqtt.publish_all(broker.port, [("a", b"x")])
    (record,) = wait_records(kafka.bootstrap, topic, 1)
    assert (record.mqtt_topic, record.payload) == ("a", b"x")
    broker.health.wait_drained(5)
    assert broker.stop().seconds < 10


def test_properties_in_the_example_are_librdkafkas(make_broker: MakeBroker) -> None:
    """The properties of librdkafka that the example shows exist, and the plugin lets them be set: it names another
    mistake, made here on purpose, and none of them. (The files of keys and certificates need not be there for that.)"""
    options = {name: entry.value for name, entry in _example_options() if name.startswith("rdkafka.")}
    assert len(options) > 5
    broker = make_broker({**options, "kafka_workers": 0})
    _, log = broker.run_refused()
    mistakes = re.findall(r"metamorphosis: (option .*)", log)
    assert len(mistakes) == 1 and "kafka_workers" in mistakes[0], log
    make_broker({**options, "kafka_broker": "127.0.0.1:1"}).start()


@pytest.mark.parametrize("kind", ["tls", "mtls", "sasl_tls"])
def test_security_in_the_example(secure_kafka: SecureKafka, make_broker: MakeBroker, kind: str) -> None:
    """The options of security that the example shows, those of one kind at a time, with files and names that are there:
    a message arrives in Kafka."""
    topic = secure_kafka.new_topic()
    wanted = secure_kafka.options(kind)
    if kind == "sasl_tls":
        password = make_broker().directory / "password"
        password.write_text(wanted.pop("kafka_sasl_password") + "\n")
        password.chmod(0o600)
        wanted["kafka_sasl_password_file"] = str(password)
    options = {name: entry.value for name, entry in _example_options() if name in wanted}
    assert options.keys() == wanted.keys()
    broker = make_broker({**options, **wanted, "kafka_topic": topic}).start()
    mqtt.publish_all(broker.port, [("a", b"x")])
    wait_records(secure_kafka.bootstrap, topic, 1)


def _documented_metrics() -> set[str]:
    """The names that begin a row of a table."""
    return set(re.findall(r"^\| `([a-z_0-9]+)`", _METRICS.read_text(), re.MULTILINE))


def test_every_metric_is_documented(kafka: Cluster, make_broker: MakeBroker) -> None:
    """The families of a live /metrics page and the rows of docs/metrics.md are the same; the type and each label of a
    family stand in its row."""
    broker = make_broker({"kafka_broker": kafka.bootstrap, "kafka_topic": kafka.new_topic()}).start()
    metrics = broker.health.scrape()
    assert _documented_metrics() == set(metrics.types)
    text = _METRICS.read_text()
    for name, kind in metrics.types.items():
        (row,) = re.findall(rf"^\| `{name}`.*$", text, re.MULTILINE)
        assert f"| {kind} |" in row, f"{name} is a {kind}"
        own = {name, f"{name}_bucket", f"{name}_sum", f"{name}_count"}
        for sample, labels in metrics.samples:
            for label, value in labels if sample in own else ():
                if label == "le":
                    continue
                assert f"`{label}`" in row, f"{name} has a label {label}"
                assert label not in ("reason", "state") or f"`{value}`" in row, f"{name} has {label}={value}"


def _tests_of(file: Path) -> set[str]:
    pattern = r"^def (test_\w+)\(" if file.suffix == ".py" else r"^static void (test_\w+)\("
    return set(re.findall(pattern, file.read_text(), re.MULTILINE))


def _check_named(named: set[tuple[str, str]]) -> dict[str, Path]:
    """Each test, of a file or a program of its own, exists. Returns the files of tests."""
    files = {path.name: path for kind in ("*.py", "*.c") for path in (_ROOT / "test").rglob(kind)}
    programs = (_ROOT / "test" / "torture" / "CMakeLists.txt").read_text()
    torture = {f"torture_{name}" for name in re.findall(r"^\s*mm_torture_test\((\w+) ", programs, re.MULTILINE)}
    torture |= {
        f"torture_{part}" for parts in re.findall(r"foreach\(part ([\w ]+)\)", programs) for part in parts.split()
    }
    for file, name in sorted(named):
        if file:
            assert file in files and name in _tests_of(files[file]), f"no {file}::{name}"
        else:
            assert name in torture, f"no {name}"
    return files


def test_guarantees_name_tests_that_are_there() -> None:
    """Each test that docs/guarantees.md names exists."""
    tests = set(re.findall(r"`(?:(test_\w+\.(?:py|c))::)?(test_\w+|torture_\w+)`", _GUARANTEES.read_text()))
    assert len(tests) > 40
    _check_named(tests)


def test_failures_name_tests_that_are_there() -> None:
    """Each row of docs/failures.md names a test, each test that it names exists, and each test of the spool on disk is
    named."""
    named: set[tuple[str, str]] = set()
    for line in _FAILURES.read_text().splitlines():
        cells = line.split(" | ")
        if not line.startswith("| ") or cells[0] in ("| fault", "| ---"):
            continue
        tests = re.findall(r"`(?:(test_\w+\.(?:py|c))::)?(\w+)`", cells[2])
        found = {(file, name) for file, name in tests if file or name.startswith("torture_")}
        assert len(cells) == 5 and found, f"not a row with a test: {line}"
        named |= found
    for file, path in sorted(_check_named(named).items()):
        if re.match(r"test_2[1-7]_", file):
            left_out = {(file, name) for name in _tests_of(path)} - named
            assert not left_out, f"not in {_FAILURES.name}: {sorted(left_out)}"


def test_sizes_are_by_the_formula() -> None:
    """The table of docs/operations.md is what its formula gives, without the 16 MiB, for topics of 30 bytes."""
    rows = re.findall(r"^\| (\d+) \| (\d+) \| (\d+) \| ([\d. |]+) \|$", _OPERATIONS.read_text(), re.MULTILINE)
    assert len(rows) > 5
    for rate, payload, record, sizes in rows:
        assert int(record) == (40 + 30 + int(payload) + 7) // 8 * 8
        expected = [int(rate) * int(record) * hours * 3600 / 0.9 / 2**30 for hours in (1, 8, 24, 72)]
        assert [float(size) for size in sizes.split(" | ")] == [round(size, 2) for size in expected]


# A place of a name or a figure in a format string; of those with PRIu64 and the like the percent sign is left.
_PLACE = r"%[-0-9.*]*(?:zu|llu|[a-z])?"
_LITERAL = r'"((?:[^"\\]|\\.)*)"'
# What many lines have in common, and explains none.
_BOILERPLATE = ('spool_dir "', "more since the last such line")
_CALLS = r"(?:mm_log_write|mm_keeper_tell|set_aside|\bfail|print_line|snprintf\(errstr)\b"
# Who speaks of the spool, from the disk to the broker.
_SPEAKERS = [
    f"mm_{name}"
    for name in "dir recover spool spool_read housekeeper keeper parkdir park park_change park_keep worker plugin".split()
]


def _source(path: Path) -> str:
    """The text of a file with adjacent literals joined."""
    text = re.sub(r'"\s*PRI\w+\s*"', "", path.read_text())
    return re.sub(r'"\s*"', "", text)


def _fixed(text: str) -> list[str]:
    """What is left of a format string or of a quoted line without its places, if it is more than a word."""
    parts = [part.strip() for part in re.split(rf"{_PLACE}|…", text.replace('\\"', '"'))]
    return [part for part in parts if len(part) > 7 and part not in _BOILERPLATE]


def _quoted_lines() -> list[str]:
    """What stands in backquotes in the first column of the tables of log lines."""
    part = _DURABILITY.read_text().split("\n## Lines of the log\n")[1]
    cells = [row.split(" | ")[0] for row in part.splitlines() if row.startswith("| `")]
    return [quoted for cell in cells for quoted in re.findall(r"`([^`]+)`", cell)]


def test_log_lines_are_the_programs() -> None:
    """The fixed parts of each line of the log that docs/durability.md explains stand in the source, in one literal."""
    sources = [_source(path) for path in sorted((_ROOT / "plugin").glob("*.c"))]
    said = [part for source in sources for text in re.findall(_LITERAL, source) for part in _fixed(text)]
    quoted = _quoted_lines()
    assert len(quoted) > 60, "the tables have another form than they had"
    for line in quoted:
        parts = _fixed(line)
        assert parts, f"too short to be found: {line}"
        for part in parts:
            assert any(part in text for text in said), f"{_DURABILITY.name} quotes what nobody says: {line}"


def test_every_line_is_explained() -> None:
    """Whatever the plugin tells the log about the spool, or gives as the reason why the broker does not start, is
    explained in docs/durability.md."""
    explained = [part for line in _quoted_lines() for part in _fixed(line)]
    n = 0
    for module in _SPEAKERS:
        for text in re.findall(rf"{_CALLS}[^;{{}}]*?{_LITERAL}", _source(_ROOT / "plugin" / f"{module}.c")):
            fixed = _fixed(text)
            n += 1
            if fixed:
                told = any(part in said for part in explained for said in fixed)
                assert told, f"{module}.c says {text!r}, and {_DURABILITY.name} does not explain it"
    assert n > 60, "the lines are written in another way than they were"


def _anchors(path: Path) -> set[str]:
    """The anchors that GitHub gives a page's headings."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


_PAGES = [*sorted(_ROOT.glob("*.md")), *sorted((_ROOT / "docs").glob("*.md")), *sorted((_ROOT / "deploy").rglob("*.md"))]


@pytest.mark.parametrize("path", _PAGES, ids=lambda path: str(path.relative_to(_ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    """Each link inside the repository leads to a file that is there, and to a heading of it."""
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"\n\s*", " ", path.read_text())):
        if re.match(r"\w+:", target):
            continue
        name, _, anchor = target.partition("#")
        there = (path.parent / name).resolve() if name else path
        assert there.exists(), f"{path.name} leads to {target}"
        assert not anchor or anchor in _anchors(there), f"{path.name} leads to {target}"
