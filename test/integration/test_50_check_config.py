"""metamorphosis check-config finds every mistake before the broker starts: in the table of bad configurations, in
mosquitto.conf as the broker reads it, on this machine, and in Kafka."""

from __future__ import annotations

import os
import pwd
import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from conftest import MakeBroker, MakeKafka, MakeSecureKafka
from harness import ports
from harness.broker import plugin_file
from harness.certificates import Authority
from harness.consumer import wait_records
from harness.disk import SmallDisk
from harness.kafka import Cluster, unique
from harness.secure import SecureKafka
from harness.tool import Outcome, good, tool

_ROOT = Path(__file__).resolve().parents[2]
_TABLE = _ROOT / "test" / "data" / "bad_config.txt"
_ROOT_ONLY = pytest.mark.usefixtures("as_root")


@dataclass
class Bad:
    name: str
    body: list[str] = field(default_factory=list)
    errors: list[tuple[int, str]] = field(default_factory=list)

    def lines(self) -> list[bytes]:
        return [re.sub(rb"<<(.+?)>>", _special, line.encode()) for line in self.body]


def _special(found: re.Match[bytes]) -> bytes:
    text = found[1].decode()
    return text[0].encode() * int(text[2:]) if text[1:2] == "*" else bytes.fromhex(text)


def _read_table() -> list[Bad]:
    cases: list[Bad] = []
    for line in _TABLE.read_text().splitlines():
        if line.startswith("## "):
            cases.append(Bad(line[3:]))
        elif line.startswith("=> "):
            number, text = line[3:].split(": ", 1)
            cases[-1].errors.append((int(number), text))
        elif cases and line:
            cases[-1].body.append(line)
    return cases


_BAD = _read_table()


@pytest.fixture
def as_root() -> None:
    """The tests of other users' rights are root's: without, they have nobody to become."""
    assert os.getuid() == 0, "run as root: rights are tried as another user"


@pytest.fixture
def shared_path(tmp_path: Path) -> Iterator[Path]:
    """A directory that every user may enter."""
    changed = []
    for directory in (tmp_path, *tmp_path.parents):
        mode = directory.stat().st_mode
        if mode & 0o5 != 0o5 and directory.stat().st_uid == os.getuid():
            directory.chmod(mode | 0o5)
            changed.append((directory, mode))
    yield tmp_path
    for directory, mode in changed:
        directory.chmod(mode & 0o7777)


def _check(path: Path, *args: str | Path) -> tuple[Outcome, list[dict[str, Any]]]:
    outcome = tool("check-config", "--json", *args, path)
    document = outcome.document
    assert document["file"] == str(path)
    findings: list[dict[str, Any]] = document["findings"]
    assert document["errors"] == sum(f["level"] == "error" for f in findings)
    assert document["warnings"] == sum(f["level"] == "warning" for f in findings)
    assert document["good"] == (outcome.code == 0)
    return outcome, findings


def _texts(findings: list[dict[str, Any]], level: str = "error") -> list[str]:
    return [f["text"] for f in findings if f["level"] == level]


def _write(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o644)
    return path


def _broker_conf(path: Path, *lines: str, head: str = "", user: str = "root") -> Path:
    """A mosquitto.conf with the plugin and these options of it."""
    options = "".join(f"plugin_opt_{line}\n" for line in lines)
    port = ports.free_port()
    text = f"user {user}\n{head}plugin {plugin_file()}\nplugin_opt_health_port {port}\n{options}"
    return _write(path, text)


# --- the table ------------------------------------------------------------------------------------------------------


def test_the_table_is_whole() -> None:
    """At least 100 rows, each of another name; each option has its rows of the six common kinds."""
    names = [bad.name for bad in _BAD]
    assert len(names) >= 100 and len(set(names)) == len(names)
    reference = good("options").out
    options = re.findall(r"^\| `(\w+)` \| `[A-Z_0-9]+` \|", reference, re.MULTILINE)
    assert len(options) > 20
    kinds = ("no value", "empty", "wrong", "huge", "twice", "misspelt")
    excepted = {"route/twice", "kafka_key/no value", "kafka_key/empty"}  # these mean something
    wanted = {f"{name}/{kind}" for name in options for kind in kinds} - excepted
    assert wanted - set(names) == set(), "rows are missing"


def test_the_tool_tells_the_table(tmp_path: Path) -> None:
    """Each row: exit code 1, and exactly these errors, at these lines."""
    path = tmp_path / "mm.conf"
    for bad in _BAD:
        path.write_bytes(b"\n".join(bad.lines()) + b"\n")
        outcome, findings = _check(path, "--config-file", "--form-only")
        assert outcome.code == 1, bad.name
        told = [(f["line"], f["text"]) for f in findings if f["level"] == "error"]
        assert told == [(line, text.replace("FILE", str(path))) for line, text in bad.errors], bad.name
        assert all(f["file"] == str(path) for f in findings if f["line"] is not None)


def _broker_rows() -> list[Bad]:
    """Rows that can stand in a mosquitto.conf: with names that it takes, and values; every ninth of them."""
    rows = [
        bad
        for bad in _BAD
        if not bad.name.startswith(("config_file/", "file/")) and "/etc/" not in " ".join(bad.body)
        and all(re.fullmatch(rb"[ -~]{3,500}", line) and b" " in line.strip() for line in bad.lines())
    ]
    assert len(rows) > 60
    return rows[::9]


@pytest.mark.parametrize("bad", _broker_rows(), ids=lambda bad: bad.name)
def test_a_real_broker_tells_the_table(make_broker: MakeBroker, bad: Bad) -> None:
    """The broker does not start, and its log has each error of the row in the same words."""
    pairs = [tuple(line.decode().split(" ", 1)) for line in bad.lines()]
    code, log = make_broker(pairs).run_refused()
    assert code > 0, log
    for _, text in bad.errors:
        text = text.replace(' (line 1 of "FILE")', "").replace(", first, ", ", ").removesuffix(", first")
        assert f"metamorphosis: {text}" in log, log


def test_a_real_broker_tells_the_line_of_its_config_file(make_broker: MakeBroker, tmp_path: Path) -> None:
    """A mistake in the config_file: the start is refused, and the log has the file, the line and the reason; mended,
    the broker starts with what stands there."""
    file = _write(tmp_path / "mm.conf", "# x\nkafka_workers 99x\nlog_level debug\n")
    broker = make_broker({"config_file": file, "kafka_broker": "127.0.0.1:1"})
    code, log = broker.run_refused()
    assert code > 0
    told = f'metamorphosis: config_file "{file}" line 2: option kafka_workers: "99x" is not valid: expected a whole'
    assert told in log, log
    _write(file, "kafka_workers 3\r\nlog_level debug\r\nkafka_broker 127.0.0.1:1\r\n")
    broker.start()
    assert "kafka_workers=3" in broker.logs()
    broker.stop()


def test_a_real_broker_tells_every_property(make_broker: MakeBroker, tmp_path: Path) -> None:
    """Properties that librdkafka does not take, in both places: each is told at once, beside another mistake."""
    file = _write(tmp_path / "mm.conf", "rdkafka.no.such.thing 1\nrdkafka.socket.timeout.ms soon\n")
    options = {"config_file": file, "rdkafka.compression.level": "many", "kafka_workers": 0}
    code, log = make_broker(options).run_refused()
    assert code > 0
    assert f'config_file "{file}" line 1: option rdkafka.no.such.thing: No such configuration property' in log
    assert f'config_file "{file}" line 2: option rdkafka.socket.timeout.ms: Invalid value' in log
    assert 'metamorphosis: option rdkafka.compression.level: Invalid value' in log
    assert 'metamorphosis: option kafka_workers: "0" is not valid' in log


# --- good ones ------------------------------------------------------------------------------------------------------

_GOOD_FILES = {
    "nothing": "",
    "only comments": "# a\n\n  # b\n",
    "no newline at the end": "kafka_topic plant",
    "CRLF": "kafka_topic plant\r\nkafka_workers 2\r\n",
    "byte order mark": "\ufeffkafka_topic plant\n",
    "tabs and blanks": "\t kafka_topic \t plant \t\n",
    "words in any case": "when_full REJECT\nlog_level Info\n",
    "routes": "route a/#,b/+ as\nroute c; d ds\nroute $x/# xs\n",
    "properties": "rdkafka.compression.codec zstd\nrdkafka.linger.ms 0.5\nrdkafka.client.id a # b\n",
    "settings of the Go program": "mqtt_broker m\nkafka_batch_size 7\nkakfa_port 9093\n",
    "brokers": "kafka_broker a, b:1 ,[::1],[fe80::1]:9\n",
    "UTF-8": "mqtt_topic grün/#\njson_field_names Thema,Inhalt\n",
}


@pytest.mark.parametrize("name", _GOOD_FILES)
def test_good_config_files(tmp_path: Path, name: str) -> None:
    path = tmp_path / "mm.conf"
    path.write_text(_GOOD_FILES[name], newline="")
    outcome = tool("check-config", "--config-file", "--form-only", path)
    assert outcome.code == 0 and ": error: " not in outcome.out, outcome
    if name != "settings of the Go program":
        assert outcome.out == f"{path}: no mistake found\n"


def test_the_example_is_good(tmp_path: Path) -> None:
    """mosquitto.conf.example, as it stands and with every option set that may be beside the others: its form is good, by
    the tool and strictly."""
    text = (_ROOT / "mosquitto.conf.example").read_text()
    excluding = r"rdkafka\.|config_file|kafka_(?:security|tls|sasl|oauth|kerberos)_"  # some of which exclude each other
    everything = re.sub(rf"^#(?=plugin_opt_(?!{excluding})|max_packet_size )", "", text, flags=re.MULTILINE)
    assert everything != text
    for form in (text, everything):
        path = _write(tmp_path / "mosquitto.conf", form)
        outcome = tool("check-config", "--strict", "--form-only", path)
        assert outcome.code == 0, outcome.out


_SHIPPED = sorted(path for name in ("deploy", "docker") for path in (_ROOT / name).rglob("mosquitto*.conf"))


@pytest.mark.parametrize("path", _SHIPPED, ids=[str(path.relative_to(_ROOT)) for path in _SHIPPED])
def test_shipped_configurations_are_good(path: Path) -> None:
    outcome = tool("check-config", "--strict", "--form-only", path)
    assert outcome.code == 0, outcome.out


def _examples() -> list[tuple[str, str]]:
    """The configurations that the documents show: blocks of text with plugin_opt_ lines in them."""
    found = []
    for path in (_ROOT / "README.md", *sorted((_ROOT / "docs").glob("*.md"))):
        text = path.read_text()
        blocks = re.findall(r"^```(?:text|conf|ini)?\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
        blocks += re.findall(r"((?:^    [^\n]*\n)+)", text, re.MULTILINE)
        for number, block in enumerate(blocks):
            lines = [line.strip() for line in block.splitlines()]
            is_one = any(re.match(r"(plugin_opt_\w|plugin )", line) for line in lines)
            if is_one and "<kafka topic>" not in block:  # which is a rule and no example
                found.append((f"{path.name}-{number}", "\n".join(lines) + "\n"))
    return found


@pytest.mark.parametrize(("name", "text"), _examples(), ids=[name for name, _ in _examples()])
def test_examples_of_the_documents_are_good(tmp_path: Path, name: str, text: str) -> None:
    """A part of a configuration may lack what it is said to go with."""
    is_part = not re.search(r"^plugin ", text, re.MULTILINE)
    if is_part:
        text = "plugin /usr/local/lib/mosquitto_metamorphosis.so\n" + text
    _, findings = _check(_write(tmp_path / "mosquitto.conf", text), "--form-only")
    lacking = r"^option config_file: .* cannot be read: No such file" + (r"|: has no effect: expected " if is_part else "")
    wrong = [text for text in _texts(findings) if not re.search(lacking, text)]
    assert wrong == [], name


def test_the_documents_have_examples() -> None:
    assert len(_examples()) >= 2 and len(_SHIPPED) >= 2


# --- mosquitto.conf -------------------------------------------------------------------------------------------------


def test_what_the_broker_makes_of_it(tmp_path: Path) -> None:
    """The broker's own rules, over several files, with all mistakes told at once."""
    included = tmp_path / "conf.d"
    included.mkdir()
    other = _write(included / "b.conf", "plugin /usr/lib/other.so\nplugin_opt_abc 1\n")
    second = _write(included / "c.conf", f"plugin {plugin_file()}\nplugin_opt_kafka_topic a/b\n")
    _write(included / "d.conf.off", "nonsense\n")
    config = _write(tmp_path / "mm.conf", "kafka_workers 0\nkafka_topic a\n")
    main = _write(
        tmp_path / "mosquitto.conf",
        f"per_listener_settings true\nplugin {plugin_file()}\nplugin_opt_kafka_topic b\ninclude_dir {included}\n"
        f"plugin_opt_config_file {config}\nmessage_size_limit 1000\nmax_packet_size 2000000\nplugin_opt_id 7\n",
    )
    outcome, findings = _check(main, "--form-only")
    assert outcome.code == 1
    told = [(f["file"], f["line"], f["level"], f["text"]) for f in findings]
    plugin = (
        "with per_listener_settings true (line 1) and no listener above this line, the plugin hears nothing on "
        "Mosquitto 2.0, and 2.1 does not start"
    )
    assert told == [
        (str(main), 2, "error", plugin),
        (
            str(main),
            5,
            "error",
            "plugin_opt_config_file: an include_dir with other plugins stands between this and its plugin line: "
            "Mosquitto 2.0 loses the option or crashes; move the include_dir",
        ),
        (
            str(main),
            6,
            "warning",
            "message_size_limit 1000: Mosquitto acknowledges what is larger to MQTT 3.1.1 clients and throws it away, "
            "and the plugin never sees it; max_packet_size closes the connection instead",
        ),
        (
            str(main),
            7,
            "warning",
            "max_packet_size 2000000 lets in messages that are larger than the 1048588 bytes that go to Kafka "
            "(max_message_bytes): they become dead letters",
        ),
        (str(main), 8, "error", "plugin_opt_id: Mosquitto takes no option with a name of less than 3 characters"),
        (
            str(second),
            1,
            "error",
            f'the plugin is loaded twice, first in line 2 of "{main}": it refuses that, since every message would be '
            "in Kafka twice",
        ),
        (str(config), 1, "error", 'option kafka_workers: "0" is not valid: expected a whole number from 1 to 64'),
        (
            str(config),
            2,
            "error",
            f'option kafka_topic: given twice, first "b" (line 3 of "{main}"), then "a"',
        ),
    ]
    assert str(other) not in outcome.out


def test_listeners(tmp_path: Path) -> None:
    conf = tmp_path / "mosquitto.conf"
    plugin = plugin_file()
    _write(conf, f"per_listener_settings true\nlistener 1883\nplugin {plugin}\n")
    _, findings = _check(conf, "--form-only")
    assert ["hears the listener above" in text for text in _texts(findings, "warning")] == [True]
    _write(conf, f"per_listener_settings true\nglobal_plugin {plugin}\nlistener 1883\n")
    assert _check(conf, "--form-only", "--strict")[0].code == 0
    _write(conf, f"plugin_load mm {plugin}\nplugin_opt_kafka_topic a\nlistener 1883\n")
    assert "plugin_load alone does nothing" in _texts(_check(conf, "--form-only")[1])[0]
    _write(conf, f"plugin_load mm {plugin}\nplugin_opt_kafka_topic a\nlistener 1883\nplugin_use mm\n")
    assert _check(conf, "--form-only", "--strict")[0].code == 0


def test_no_plugin(tmp_path: Path) -> None:
    conf = _write(tmp_path / "mosquitto.conf", "listener 1883\nplugin /usr/lib/renamed.so\nplugin_opt_kafka_topic a\n")
    outcome, findings = _check(conf, "--form-only")
    assert outcome.code == 1
    assert _texts(findings) == ["no plugin line loads the plugin: expected plugin <directory>/mosquitto_metamorphosis.so"]
    assert _check(conf, "--form-only", "--plugin", "renamed.so")[0].code == 0


def test_form_can_be_said(tmp_path: Path) -> None:
    """A text that looks like the other form is read as what it is said to be."""
    conf = _write(tmp_path / "x", "listener 1883\n")
    assert _texts(_check(conf, "--config-file", "--form-only")[1]) == ["option listener: unknown"]
    assert "no plugin line" in _texts(_check(conf, "--form-only")[1])[0]
    _write(conf, "kafka_topic a\n")
    assert any("plugin_opt_kafka_topic?" in t for t in _texts(_check(conf, "--mosquitto-conf", "--form-only")[1]))


def test_use(tmp_path: Path) -> None:
    """Wrong use is 2, a file that is not there 1, and --help says all."""
    file = _write(tmp_path / "mm.conf", "")
    for args in ([], ["--nonsense", file], [file, file], ["--timeout", "0", file], ["--produce-test", file]):
        assert tool("check-config", *args).code == 2, args
    wrong = tool("check-config", "--timeout", "10s", file)
    assert wrong.code == 2 and '--timeout "10s": expected a number from 1 to 600' in wrong.err
    missing = tool("check-config", tmp_path / "nothing")
    assert missing.code == 1 and "nothing: error: cannot be read: No such file or directory" in missing.out
    assert tool("check-config", tmp_path).code == 1
    text = good("check-config", "--help").out
    for word in ("--connect", "--form-only", "--user", "Exit codes"):
        assert word in text


def test_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables count with --env alone."""
    monkeypatch.setenv("KAFKA_WORKERS", "none")
    file = _write(tmp_path / "mm.conf", "kafka_topic a\n")
    assert _check(file, "--form-only")[0].code == 0
    assert _texts(_check(file, "--form-only", "--env")[1]) == [
        'environment variable KAFKA_WORKERS: "none" is not valid: expected a whole number from 1 to 64'
    ]


def test_properties_are_librdkafkas(tmp_path: Path) -> None:
    """Every property that librdkafka refuses is told, beside the other mistakes; the value of a secret is not."""
    file = _write(
        tmp_path / "mm.conf",
        "rdkafka.no.such.property 1\nkafka_workers 0\nrdkafka.message.max.bytes 1\nrdkafka.security.protocol tsl\n",
    )
    texts = _texts(_check(file, "--form-only")[1])
    assert [text.split(":")[0] for text in texts] == [
        "option rdkafka.no.such.property",
        "option kafka_workers",
        "option rdkafka.message.max.bytes",
        "option rdkafka.security.protocol",
    ]
    _write(file, "rdkafka.security.protocol sasl_plaintext\nrdkafka.sasl.mechanisms NONSENSE\n")
    outcome, findings = _check(file, "--user", "root")
    assert outcome.code == 1 and "NONSENSE" in _texts(findings)[0], findings


# --- the machine ----------------------------------------------------------------------------------------------------


@_ROOT_ONLY
def test_rights_of_the_broker_s_user(shared_path: Path) -> None:
    """What the user mosquitto cannot read or write is told, though root asks."""
    closed = shared_path / "closed"
    closed.mkdir()
    _write(closed / "ca.pem", "x")
    closed.chmod(0o700)
    spool = shared_path / "spool"
    spool.mkdir(mode=0o755)
    conf = _broker_conf(
        shared_path / "mosquitto.conf",
        f"spool_dir {spool}",
        f"config_file {closed}/mm.conf",
        f"rdkafka.ssl.ca.location {closed}/ca.pem",
        user="mosquitto",
    )
    conf.write_text(conf.read_text().replace(str(plugin_file()), str(shared_path / "mosquitto_metamorphosis.so")))
    _write(closed / "mm.conf", "log_level info\n")
    texts = _texts(_check(conf)[1])
    assert (
        f'plugin "{shared_path}/mosquitto_metamorphosis.so" cannot be loaded: No such file or directory, as user '
        "mosquitto" in texts
    )
    assert f'option spool_dir: "{spool}" belongs to root (mode 0755), and user mosquitto cannot write there' in texts
    barrier = f'the directory "{closed}" does not let user mosquitto in'
    assert f'option config_file: "{closed}/mm.conf" cannot be read: {barrier}' in texts
    assert f'option rdkafka.ssl.ca.location: "{closed}/ca.pem" cannot be read: {barrier}' in texts
    mosquitto = pwd.getpwnam("mosquitto")
    os.chown(spool, mosquitto.pw_uid, mosquitto.pw_gid)
    assert not [text for text in _texts(_check(conf)[1]) if "spool_dir" in text]


@_ROOT_ONLY
def test_spool_dir_that_is_to_be_made(shared_path: Path) -> None:
    conf = _broker_conf(shared_path / "mosquitto.conf", f"spool_dir {shared_path}/no/spool", user="mosquitto")
    assert _texts(_check(conf)[1])[-1].startswith(
        f'option spool_dir: "{shared_path}/no/spool" cannot be made: No such file or directory; the directory above'
    )
    (shared_path / "no").mkdir(mode=0o755)
    assert "cannot be made: Permission denied" in _texts(_check(conf)[1])[-1]
    (shared_path / "no").chmod(0o777)
    assert not [text for text in _texts(_check(conf)[1]) if "spool_dir" in text]
    _write(shared_path / "no" / "spool", "")
    assert "is a file; expected a directory" in _texts(_check(conf)[1])[-1]


def test_unknown_user(tmp_path: Path) -> None:
    conf = _broker_conf(tmp_path / "mosquitto.conf", user="nobody-of-that-name")
    outcome, findings = _check(conf)
    assert outcome.code == 1 and "there is no user" in _texts(findings)[0]


def test_free_space(tmp_path: Path, make_disk: Any) -> None:
    """A disk that is full before spool_max_bytes is: a warning; one with no room at all: an error."""
    disk: SmallDisk = make_disk(64 * 1024 * 1024)
    conf = tmp_path / "mosquitto.conf"
    options = [f"spool_dir {disk.directory}/spool", "spool_max_bytes 1G", "spool_min_free 4M"]
    _broker_conf(conf, *options)
    outcome, findings = _check(conf)
    assert outcome.code == 0
    (warning,) = _texts(findings, "warning")
    assert re.match(r"option spool_dir: the spool is full with \d.* MiB, not with spool_max_bytes 1.0 GiB: ", warning)
    _broker_conf(conf, *options[:1], "spool_max_bytes 32M", "spool_min_free 4M")
    assert _check(conf, "--strict")[0].code == 0
    _broker_conf(conf, *options[:1], "spool_min_free 60M")
    outcome, findings = _check(conf)
    assert outcome.code == 1 and "the spool is full at once" in _texts(findings)[0]


def test_port_of_the_health_pages(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        file = _write(tmp_path / "mm.conf", f"health_port {port}\n")
        outcome, findings = _check(file, "--user", "root")
        assert outcome.code == 0
        assert f"port {port} of 127.0.0.1 is taken" in _texts(findings, "warning")[0]
    _write(file, f"health_port {port}\nhealth_address 192.0.2.7\n")
    assert _texts(_check(file, "--user", "root")[1]) == [
        'option health_address: "192.0.2.7" is no address of this machine'
    ]


def test_certificates(tmp_path: Path) -> None:
    """Dates, a key of another certificate, files of something else."""
    authority = Authority(tmp_path, "ca")
    fine = authority.issue("fine", common_name="fine")
    soon = authority.issue("soon", common_name="soon", valid_for=5 * 86400 + 3600)
    late = authority.issue("late", common_name="late", valid_for=-3600)
    file = tmp_path / "mm.conf"

    def found(ca: Path, certificate: Path, key: Path) -> tuple[list[str], list[str]]:
        _write(
            file,
            f"health_port {ports.free_port()}\nrdkafka.ssl.ca.location {ca}\n"
            f"rdkafka.ssl.certificate.location {certificate}\nrdkafka.ssl.key.location {key}\n",
        )
        findings = _check(file, "--user", "root")[1]
        return _texts(findings), _texts(findings, "warning")

    assert found(authority.file, fine.certificate, fine.key) == ([], [])
    errors, warnings = found(authority.file, soon.certificate, soon.key)
    assert errors == [] and re.search(r"of CN=soon expires on \d{4}-\d\d-\d\d, in 5 days", warnings[0])
    errors, _ = found(authority.file, late.certificate, late.key)
    assert re.search(r"option rdkafka.ssl.certificate.location: the certificate of CN=late expired on ", errors[0])
    errors, _ = found(authority.file, fine.certificate, soon.key)
    assert errors == [
        f'option rdkafka.ssl.key.location: the key in "{soon.key}" is not that of the certificate'
    ]
    errors, _ = found(fine.key, fine.key, fine.certificate)
    assert [error.split(": ", 1)[1].split('"')[2] for error in errors] == [
        " has no certificate: expected certificates in PEM",
        " has no certificate: expected certificates in PEM",
        " has no key that can be read: expected a private key in PEM",
    ]


# --- Kafka ----------------------------------------------------------------------------------------------------------


def _connect(file: Path, *args: str) -> tuple[Outcome, list[dict[str, Any]]]:
    return _check(file, "--user", "root", "--connect", "--timeout", "5", *args)


def test_kafka_is_well(kafka: Cluster, tmp_path: Path) -> None:
    topics = [kafka.new_topic() for _ in range(3)]
    file = _write(
        tmp_path / "mm.conf",
        f"kafka_broker {kafka.bootstrap}\nkafka_topic {topics[0]}\nroute a/# {topics[1]}\n"
        f"dead_letter_topic {topics[2]}\nroute b/# made.${{topic[1]}}\nkafka_topic_allow made.*\n"
        f"health_port {ports.free_port()}\n",
    )
    outcome, findings = _connect(file, "--strict")
    assert outcome.code == 0, findings
    assert any('which Kafka topics "made.${topic[1]}" becomes' in text for text in _texts(findings, "note"))


def test_kafka_is_not_there(kafka_port_of_nobody: int, tmp_path: Path) -> None:
    file = _write(tmp_path / "mm.conf", f"kafka_broker 127.0.0.1:{kafka_port_of_nobody}\nhealth_port 0\n")
    outcome, findings = _check(file, "--user", "root", "--connect", "--timeout", "1")
    assert outcome.code == 1
    assert _texts(findings)[0].startswith(f"Kafka was not reached at 127.0.0.1:{kafka_port_of_nobody}: ")
    assert "Connection refused" in _texts(findings)[0]


def test_missing_topics(make_kafka: MakeKafka, kafka: Cluster, tmp_path: Path) -> None:
    """A topic that Kafka would make, one that it would not; and asking makes none."""
    strict_kafka = make_kafka({"auto.create.topics.enable": "false"})
    strict_kafka.start()
    missing = unique("missing")
    file = _write(
        tmp_path / "mm.conf",
        f"kafka_broker {strict_kafka.bootstrap}\nkafka_topic {strict_kafka.new_topic()}\nroute a/# {missing}\n"
        "health_port 0\n",
    )
    outcome, findings = _connect(file)
    assert outcome.code == 1
    errors = [(f["line"], f["text"]) for f in findings if f["level"] == "error"]
    assert errors == [
        (
            3,
            f'option route: there is no Kafka topic "{missing}", and Kafka does not make it by itself; its messages '
            "wait in the spool until it is made",
        )
    ]
    lenient = make_kafka({"auto.create.topics.enable": "true"})
    lenient.start()
    _write(file, f"kafka_broker {lenient.bootstrap}\nkafka_topic {missing}\nhealth_port 0\n")
    outcome, findings = _connect(file)
    assert outcome.code == 0
    assert f'there is no Kafka topic "{missing}"; Kafka makes it with the first message' in _texts(findings, "warning")[0]
    assert not lenient.has_topic(missing)


def test_topic_with_other_limits(kafka: Cluster, tmp_path: Path) -> None:
    small = kafka.new_topic(config={"max.message.bytes": "5000"})
    unsafe = kafka.new_topic(config={"min.insync.replicas": "2"})
    file = _write(
        tmp_path / "mm.conf",
        f"kafka_broker {kafka.bootstrap}\nkafka_topic {small}\nroute a/# {unsafe}\nhealth_port 0\n",
    )
    outcome, findings = _connect(file)
    assert outcome.code == 1
    assert _texts(findings, "warning") == [
        f'option kafka_topic: Kafka topic "{small}" takes messages of 5000 bytes at most (max.message.bytes), '
        "max_message_bytes allows 1048588: larger ones become dead letters"
    ]
    assert _texts(findings) == [
        f'option route: Kafka topic "{unsafe}" takes no message: it has 1 replicas, and min.insync.replicas is 2'
    ]


def _options(options: dict[str, str]) -> str:
    return "".join(f"{name} {value}\n" for name, value in options.items())


def test_wrong_password(secure_kafka: SecureKafka, tmp_path: Path) -> None:
    """The right one gets in, the wrong one is told as Kafka tells it, without the password."""
    topic = secure_kafka.new_topic()
    file = tmp_path / "mm.conf"
    _write(file, _options(secure_kafka.options("sasl_tls")) + f"kafka_topic {topic}\nhealth_port 0\n")
    file.chmod(0o600)
    outcome, findings = _connect(file)
    assert outcome.code == 0, findings
    wrong = secure_kafka.options("sasl_tls", kafka_sasl_password="not-the-word")
    _write(file, _options(wrong) + f"kafka_topic {topic}\nhealth_port 0\n")
    outcome, findings = _connect(file)
    assert outcome.code == 1
    (told,) = _texts(findings)
    assert told.startswith(f"Kafka was not reached at {secure_kafka.address('sasl_tls')}: ")
    assert "alice" in told and "password" in told
    assert "not-the-word" not in outcome.out


def test_wrong_authority(secure_kafka: SecureKafka, tmp_path: Path) -> None:
    topic = secure_kafka.new_topic()
    file = tmp_path / "mm.conf"
    options = secure_kafka.options("tls", kafka_tls_ca_file=str(secure_kafka.other_authority.file))
    _write(file, _options(options) + f"kafka_topic {topic}\nhealth_port 0\n")
    outcome, findings = _connect(file)
    assert outcome.code == 1
    (told,) = _texts(findings)
    assert told.startswith(f"Kafka was not reached at {secure_kafka.address('tls')}: ")
    assert "authority" in told and "kafka_tls_ca_file" in told


def test_no_right_to_write(make_secure_kafka: MakeSecureKafka, tmp_path: Path) -> None:
    """A topic that we may not even see, one that we may see and not write, and one that we may write."""
    kafka = make_secure_kafka(acls=True)
    kafka.start()
    good_one, visible, hidden = (kafka.new_topic() for _ in range(3))
    kafka.allow("alice", "WRITE", good_one)
    kafka.allow("alice", "DESCRIBE", visible)
    file = tmp_path / "mm.conf"
    _write(
        file,
        _options(kafka.options("sasl_tls"))
        + f"kafka_topic {good_one}\nroute a/# {visible}\nroute b/# {hidden}\nhealth_port 0\n",
    )
    refusal = "; its messages wait in the spool until the right is given"
    outcome, findings = _connect(file)
    assert outcome.code == 1
    assert _texts(findings)[-1] == f'option route: no right to write to the Kafka topic "{hidden}"{refusal}'
    asked = f'option route: no right to write to the Kafka topic "{visible}"{refusal}' in _texts(findings)
    cannot_ask = any("may be written is not known" in text for text in _texts(findings, "note"))
    assert asked != cannot_ask  # by the librdkafka at hand
    outcome, findings = _connect(file, "--produce-test")
    assert outcome.code == 1
    told = " ".join(_texts(findings))
    assert f'the Kafka topic "{visible}" cannot be written: ' in told and "TOPIC_AUTHORIZATION_FAILED" in told
    assert len(wait_records(kafka.bootstrap, good_one, 1)) == 1


def test_files_of_the_options(tmp_path: Path) -> None:
    """The files that kafka_tls_... names are looked into, but not with --form-only."""
    authority = Authority(tmp_path, "ca")
    late = authority.issue("late", common_name="late", valid_for=-3600)
    other = authority.issue("other", common_name="other")
    file = _write(
        tmp_path / "mm.conf",
        f"health_port 0\nkafka_security_protocol ssl\nkafka_tls_ca_file {authority.file}\n"
        f"kafka_tls_cert_file {late.certificate}\nkafka_tls_key_file {other.key}\n",
    )
    found = [(f["line"], f["text"]) for f in _check(file, "--user", "root")[1] if f["level"] == "error"]
    assert any(line == 4 and "the certificate of CN=late expired on " in text for line, text in found), found
    assert (
        5,
        f'option kafka_tls_key_file: the key in "{other.key}" is not that of the certificate',
    ) in found
    _write(file, "kafka_security_protocol ssl\nkafka_tls_ca_file /nowhere/ca.pem\n")
    assert _check(file, "--form-only")[0].code == 0
    assert "No such file" in _texts(_check(file, "--user", "root")[1])[0]


def test_produce_test(kafka: Cluster, tmp_path: Path) -> None:
    """One record in each topic, and none without the switch."""
    topics = [kafka.new_topic(), kafka.new_topic()]
    file = _write(
        tmp_path / "mm.conf",
        f"kafka_broker {kafka.bootstrap}\nkafka_topic {topics[0]}\nroute a/# {topics[1]}\nhealth_port 0\n",
    )
    assert _connect(file)[0].code == 0
    outcome, findings = _connect(file, "--produce-test")
    assert outcome.code == 0, findings
    assert len([text for text in _texts(findings, "note") if "one record was written" in text]) == 2
    for topic in topics:
        (record,) = wait_records(kafka.bootstrap, topic, 1)
        assert dict(record.headers)["mm-check"] == b"1"
