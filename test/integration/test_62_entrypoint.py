"""docker/entrypoint.sh: which mosquitto.conf it writes of which environment, and what it refuses.

The script runs here as the user that the image has, on a directory of the test in /mosquitto's place. The broker is one
that tells with what it was started.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness.certificates import Authority
from harness.remote import BECOME, UID
from harness.tool import good, tool_binary

_ROOT = Path(__file__).resolve().parents[2]
_SCRIPT = _ROOT / "docker" / "entrypoint.sh"
_BROKER = '#!/bin/sh\nprintf "%s\\n" "$@" >"$MM_ROOT/arguments"\nenv -0 >"$MM_ROOT/environment"\n'
_REMOTE = {"MQTT_BROKER": "remote", "MQTT_TOPIC": "plant/#", "KAFKA_BROKER": "kafka", "KAFKA_TOPIC": "t"}


@dataclass(frozen=True)
class _Done:
    code: int
    said: str
    arguments: list[str]  # of the broker; empty when it was not started
    environment: dict[str, str]
    config: list[str]  # the lines of the mosquitto.conf that was written


class _Place:
    """A /mosquitto and what else the script meets."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.work = root / "work"
        self.data = root / "mosquitto" / "data"
        bin_dir = root / "bin"
        for directory in (self.work, self.data, root / "mosquitto" / "config", root / "mosquitto" / "log", bin_dir):
            directory.mkdir(parents=True)
        broker = bin_dir / "mosquitto"
        broker.write_text(_BROKER)
        broker.chmod(0o755)
        tool = tool_binary()
        shutil.copy(tool, bin_dir)
        self.path = f"{bin_dir}:/usr/sbin:/usr/bin:/sbin:/bin"
        self.give()

    def give(self) -> None:
        """All of it to the user that the script runs as."""
        if os.getuid() == 0:
            for path in (self.root, *self.root.rglob("*")):
                os.chown(path, UID, UID, follow_symlinks=False)

    def run(self, env: Mapping[str, str], *argv: str) -> _Done:
        for name in ("arguments", "environment"):
            (self.root / name).unlink(missing_ok=True)
        become = BECOME if os.getuid() == 0 else ()
        done = subprocess.run(
            [*become, str(self.root / "entrypoint.sh"), *argv],
            cwd=self.work,
            env={"PATH": self.path, "MM_ROOT": str(self.root), "HOSTNAME": "pod-7.example"} | dict(env),
            capture_output=True,
            text=True,
            errors="surrogateescape",
            check=False,
            timeout=60,
        )
        arguments = self._read("arguments").splitlines()
        pairs = (entry.split("=", 1) for entry in self._read("environment").split("\0") if entry)
        written = self.data / "mosquitto.conf"
        config = written.read_text(errors="surrogateescape").split("\n")[:-1] if written.exists() else []
        return _Done(done.returncode, done.stdout + done.stderr, arguments, {k: v for k, v in pairs}, config)

    def _read(self, name: str) -> str:
        file = self.root / name
        return file.read_text(errors="surrogateescape") if file.exists() else ""


@pytest.fixture
def place() -> Iterator[_Place]:
    # Not below pytest's own directory, where nobody else may look.
    root = Path(tempfile.mkdtemp(prefix="metamorphosis-entrypoint-"))
    try:
        root.chmod(0o755)
        shutil.copy(_SCRIPT, root / "entrypoint.sh")
        yield _Place(root)
    finally:
        shutil.rmtree(root)


def _settings(config: Sequence[str], name: str) -> list[str]:
    return [line.split(" ", 1)[1] for line in config if line.startswith(f"{name} ")]


# --- in the Go program's place ---


def test_bridge(place: _Place) -> None:
    """The whole configuration, as it is; the plugin's options stay in the environment, with the image's defaults, and
    without what was the bridge's."""
    done = place.run(_REMOTE | {"MQTT_PORT": "1884", "MQTT_TLS": "FALSE", "KAFKA_WORKERS": "2", "MQTT_CLIENT_ID": "a %h-%h"})
    assert done.code == 0, done.said
    assert done.arguments == ["-c", str(place.data / "mosquitto.conf")]
    assert done.config == [
        "persistence false",
        f"listener 0 {place.data}/mosquitto.sock",
        "allow_anonymous false",
        "max_packet_size 268435460",
        "log_dest stdout",
        "log_timestamp_format %Y-%m-%dT%H:%M:%S%z",
        *("log_type error", "log_type warning", "log_type notice", "log_type information"),
        "connection metamorphosis",
        "address remote:1884",
        "remote_clientid a pod-7-pod-7",
        "cleansession false",
        "bridge_protocol_version mqttv311",
        "try_private false",
        "notifications false",
        "bridge_attempt_unsubscribe false",
        "keepalive_interval 30",
        "restart_timeout 1 10",
        "topic plant/# in 1",
        "plugin /usr/lib/mosquitto_metamorphosis.so",
        "plugin_opt_mqtt_topic plant/#",
    ]
    assert done.environment | {
        "HEALTH_ADDRESS": "all",
        "SPOOL_DIR": f"{place.data}/metamorphosis",
        "KAFKA_TEST_MESSAGE": "true",
        "KAFKA_BROKER": "kafka",
        "KAFKA_TOPIC": "t",
        "KAFKA_WORKERS": "2",
    } == done.environment
    assert not [name for name in done.environment if name.startswith("MQTT_")]
    assert (place.data / "mosquitto.conf").stat().st_mode & 0o777 == 0o600
    assert good("check-config", "--form-only", "--mosquitto-conf", place.data / "mosquitto.conf").code == 0


def test_what_is_set_counts(place: _Place) -> None:
    """What the image sets is the fall-back alone."""
    env = {"HEALTH_ADDRESS": "127.0.0.1", "SPOOL_DIR": "/elsewhere", "KAFKA_TEST_MESSAGE": "false"}
    done = place.run(_REMOTE | env)
    assert done.code == 0 and done.environment | env == done.environment


@pytest.mark.parametrize(
    ("mqtt_topic", "asked", "carried"),
    [
        ("#", ["#"], "#"),
        ("a/b", ["a/b"], "a/b"),
        (" a/+/c ;b/#, d", ["a/+/c", "b/#", "d"], "a/+/c,b/#,d"),
        ("room 1/+/t", ["+/+/t"], "room 1/+/t"),
        ("a/my level/#", ["a/+/#"], "a/my level/#"),
        ("$SYS/#", ["$SYS/#"], "$SYS/#"),
        ("$app/a b", ["$app/+"], "$app/a b"),
        ("$share/group/a b/#", ["$share/group/+/#"], "a b/#"),
        ("$share/g/x,$share/g/y", ["$share/g/x", "$share/g/y"], "x,y"),
        ("/", ["/"], "/"),
        ("a//b/", ["a//b/"], "a//b/"),
        ('"quoted"/$x/\\', ['"quoted"/$x/\\'], '"quoted"/$x/\\'),
        ("*/?/[a-z]", ["*/?/[a-z]"], "*/?/[a-z]"),
        ("café/☕", ["café/☕"], "café/☕"),
        ("in/out", ["in/out"], "in/out"),
    ],
)
def test_topics(place: _Place, mqtt_topic: str, asked: list[str], carried: str) -> None:
    """What the bridge subscribes to, and what the plugin matches."""
    done = place.run(_REMOTE | {"MQTT_TOPIC": mqtt_topic})
    assert done.code == 0, done.said
    assert _settings(done.config, "topic") == [f"{topic} in 1" for topic in asked]
    assert _settings(done.config, "plugin_opt_mqtt_topic") == [carried]
    assert good("check-config", "--form-only", "--mosquitto-conf", place.data / "mosquitto.conf").code == 0


@pytest.mark.parametrize(
    ("env", "names"),
    [
        ({"MQTT_TOPIC": ""}, ["MQTT_TOPIC is not set"]),
        ({"KAFKA_TOPIC": "", "KAFKA_BROKER": ""}, ["KAFKA_TOPIC is not set", "KAFKA_BROKER is not set"]),
        ({"MQTT_TOPIC": "a/#/b"}, ['MQTT_TOPIC: "a/#/b"']),
        ({"MQTT_TOPIC": "a#"}, ['MQTT_TOPIC: "a#"']),
        ({"MQTT_TOPIC": "a/b+"}, ['MQTT_TOPIC: "a/b+"']),
        ({"MQTT_TOPIC": "a,,b"}, ['MQTT_TOPIC: "a,,b"']),
        ({"MQTT_TOPIC": "$share/g"}, ["MQTT_TOPIC", "$share/<group>/<filter>"]),
        ({"MQTT_TOPIC": "$share/g/"}, ["MQTT_TOPIC", "$share/<group>/<filter>"]),
        ({"MQTT_TOPIC": "$share/a b/x"}, ["MQTT_TOPIC", "the group"]),
        ({"MQTT_TOPIC": "$share/+/x"}, ["MQTT_TOPIC", "the group"]),
        ({"MQTT_TOPIC": "$my app/x"}, ["MQTT_TOPIC", "begins with $"]),
        ({"MQTT_TOPIC": "a\tb"}, ["MQTT_TOPIC", '"a?b"']),
        ({"MQTT_TLS": "1"}, ['MQTT_TLS: "1"', "true or false"]),
        ({"MQTT_TLS": "yes"}, ['MQTT_TLS: "yes"']),
        ({"MQTT_PORT": "0"}, ['MQTT_PORT: "0"']),
        ({"MQTT_PORT": "65536"}, ['MQTT_PORT: "65536"']),
        ({"MQTT_PORT": "tcp://10.0.0.1:1883"}, ['MQTT_PORT: "tcp://10.0.0.1:1883"']),
        ({"MQTT_PORT": "1883 "}, ['MQTT_PORT: "1883 "']),
        ({"MQTT_PORT": "08"}, None),
        ({"MQTT_BROKER": "host:1883"}, ['MQTT_BROKER: "host:1883"', "MQTT_PORT"]),
        ({"MQTT_BROKER": "a b"}, ['MQTT_BROKER: "a b"']),
        ({"MQTT_BROKER": "a,b"}, ['MQTT_BROKER: "a,b"']),
        ({"MQTT_BROKER": "tls://host"}, ['MQTT_BROKER: "tls://host"']),
        ({"MQTT_BROKER": "-x"}, ['MQTT_BROKER: "-x"']),
        ({"ROOT_CA": "/nowhere"}, ['ROOT_CA: "/nowhere"', "uid"]),
        ({"ROOT_CA": "ca.crt"}, ['ROOT_CA: "ca.crt"', "absolute"]),
        ({"ROOT_CA": "/etc/passwd"}, ["ROOT_CA", "at least one certificate"]),
        ({"MQTT_CLIENT_CERT": "/etc/passwd"}, ["MQTT_CLIENT_CERT", "MQTT_CLIENT_KEY is not set"]),
        ({"MQTT_CLIENT_KEY": "/etc/passwd"}, ["MQTT_CLIENT_KEY", "MQTT_CLIENT_CERT is not set"]),
        ({"MQTT_PASSWORD": "geheim"}, ["MQTT_USERNAME is not set"]),
        ({"MQTT_USERNAME": "u", "MQTT_PASSWORD": "geheim "}, ["MQTT_PASSWORD is not valid"]),
        ({"MQTT_USERNAME": "u", "MQTT_PASSWORD": "geheim", "MQTT_PASSWORD_FILE": "/f"}, ["beside MQTT_PASSWORD_FILE"]),
        ({"MQTT_USERNAME": "u", "MQTT_PASSWORD_FILE": "/nowhere"}, ['MQTT_PASSWORD_FILE: "/nowhere"']),
        ({"MQTT_BROKER": "u:geheim@host"}, ["MQTT_BROKER is not valid"]),
        ({"MQTT_CLIENT_ID": " x"}, ['MQTT_CLIENT_ID: " x"']),
        ({"MQTT_USERNAME": "\udcff"}, ["MQTT_USERNAME"]),
        ({"SPOOL_MAX_BYTES": "256k"}, ['SPOOL_MAX_BYTES: "256k"', "at least 16M"]),
        ({"SPOOL_MAX_BYTES": "15M"}, ['SPOOL_MAX_BYTES: "15M"']),
        ({"SPOOL_MAX_BYTES": "0016777215"}, ["SPOOL_MAX_BYTES"]),
        ({"SPOOL_MAX_BYTES": "16777216"}, None),
        ({"SPOOL_MAX_BYTES": "16m"}, None),
        ({"SPOOL_MAX_BYTES": "1G"}, None),
    ],
)
def test_refused(place: _Place, env: dict[str, str], names: list[str] | None) -> None:
    """Bad input keeps the broker from starting; the variable, the value and what was expected are told, a secret is not,
    and no configuration is written. (None: it is good.)"""
    done = place.run(_REMOTE | env)
    assert "geheim" not in done.said
    if names is None:
        assert done.code == 0
        return
    assert done.code == 1 and done.arguments == [] and done.config == [], done
    for name in names:
        assert name in done.said, done.said
    assert "expected" in done.said


_HOSTILE = [
    "{}\nplugin /evil.so",
    "{}\rplugin /evil.so",
    "{}\r\nallow_anonymous true",
    "\n{}",
    "{} in 2\ntopic # out",
    "{}\\nplugin /evil.so",
    "{} # comment",
    "{}\tx",
    "{}\x0bx",
    "{}\x1b[2J",
    "{}$(touch evil)`touch evil`",
    "${{IFS}}{}",
    "{};touch evil",
    "{}' \"x",
    '"{}"',
    "{} {}",
    " {}",
    "{} ",
    "-n {}",
    "%s%n{}",
    "{}" + "x" * 70000,
    "*",
    "\\",
]
_GOOD = {
    "MQTT_BROKER": "remote",
    "MQTT_PORT": "8883",
    "MQTT_TOPIC": "plant",
    "MQTT_TLS": "true",
    "MQTT_CLIENT_ID": "me",
    "MQTT_USERNAME": "user",
    "MQTT_PASSWORD": "geheim",
    "ROOT_CA": "CA",
    "MQTT_CLIENT_CERT": "CERT",
    "MQTT_CLIENT_KEY": "KEY",
    "LOG_LEVEL": "info",
}


@pytest.mark.parametrize("name", _GOOD)
def test_no_value_becomes_a_line(place: _Place, name: str) -> None:
    """Whatever somebody slips into a variable: it is refused, or it is one value of the one option that it was meant for
    (a filter more is a topic more). Nothing is executed, no secret is shown, no control character reaches the log."""
    authority = Authority(place.root, "ca")
    client = authority.issue("client")
    files = {"ROOT_CA": authority.file, "MQTT_CLIENT_CERT": client.certificate, "MQTT_CLIENT_KEY": client.key}
    good_env = _GOOD | {k: str(v) for k, v in files.items()} | {"KAFKA_BROKER": "k", "KAFKA_TOPIC": "t"}
    place.give()
    usual = place.run(good_env)
    assert usual.code == 0, usual.said
    refused = 0
    for pattern in _HOSTILE:
        (place.data / "mosquitto.conf").unlink(missing_ok=True)
        done = place.run(good_env | {name: pattern.format(good_env[name], good_env[name])})
        assert "geheim" not in done.said, pattern
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", done.said), pattern
        assert not list(place.root.rglob("evil*")), pattern
        if done.code != 0:
            refused += 1
            assert done.code in (1, 126) and done.config == [] and done.arguments == [], (pattern, done)
            continue
        options = [line.split(" ")[0] for line in done.config if line.split(" ")[0] not in ("topic", "log_type")]
        assert options == [line.split(" ")[0] for line in usual.config if line.split(" ")[0] not in ("topic", "log_type")]
        for line in done.config:
            assert not re.search(r"[\x00-\x1f]", line) and not line.endswith(" "), (pattern, line)
            assert not line.startswith("topic ") or re.fullmatch(r"topic [^ ]+ in 1", line), (pattern, line)
        assert _settings(done.config, "allow_anonymous") == ["false"]
    assert refused >= 5 or name == "LOG_LEVEL"


def test_tls_files(place: _Place) -> None:
    """Certificates are named in the configuration; one without its key, or an encrypted key, is refused; without a
    certificate of the client, and without ROOT_CA, TLS works too, with the authorities of the image."""
    authority = Authority(place.root, "ca")
    client, locked = authority.issue("client"), authority.issue("locked", key_password="x")
    place.give()
    env = {"ROOT_CA": str(authority.file), "MQTT_CLIENT_CERT": str(client.certificate), "MQTT_CLIENT_KEY": str(client.key)}
    done = place.run(_REMOTE | env)
    assert done.code == 0, done.said
    assert _settings(done.config, "bridge_cafile") == [env["ROOT_CA"]]
    assert _settings(done.config, "bridge_certfile") == [env["MQTT_CLIENT_CERT"]]
    assert _settings(done.config, "bridge_keyfile") == [env["MQTT_CLIENT_KEY"]]
    assert _settings(done.config, "address") == ["remote:8883"]
    done = place.run(_REMOTE | env | {"MQTT_CLIENT_KEY": str(locked.key)})
    assert done.code == 1 and "a private key that is not encrypted" in done.said
    done = place.run(_REMOTE)
    assert done.code == 0 and _settings(done.config, "bridge_capath") == ["/etc/ssl/certs"]
    done = place.run(_REMOTE | env | {"MQTT_TLS": "false"})
    assert done.code == 0 and not [line for line in done.config if line.startswith("bridge_c")]
    assert "no meaning has ROOT_CA MQTT_CLIENT_CERT MQTT_CLIENT_KEY" in done.said


def test_client_id_is_kept(place: _Place) -> None:
    """Without MQTT_CLIENT_ID it is the name of the host, up to the first dot, at the first start; a later start in a
    container of another name has the same session."""
    first = place.run(_REMOTE)
    assert _settings(first.config, "remote_clientid") == ["pod-7"]
    second = place.run(_REMOTE | {"HOSTNAME": "pod-8"})
    assert _settings(second.config, "remote_clientid") == ["pod-7"] and '"pod-7", from' in second.said
    third = place.run(_REMOTE | {"MQTT_CLIENT_ID": "x"})
    assert _settings(third.config, "remote_clientid") == ["x"]
    (place.data / "mqtt-client-id").write_text("a\nplugin /evil.so\n")
    fourth = place.run(_REMOTE)
    assert fourth.code == 1 and "MQTT_CLIENT_ID" in fourth.said


def test_password(place: _Place) -> None:
    """From the environment or a file; never told."""
    secret = place.root / "secret"
    secret.write_text("ge heim #1\n")
    place.give()
    for env in ({"MQTT_PASSWORD": "ge heim #1"}, {"MQTT_PASSWORD_FILE": str(secret)}):
        done = place.run(_REMOTE | {"MQTT_USERNAME": "me too"} | env)
        assert done.code == 0, done.said
        assert _settings(done.config, "remote_username") == ["me too"]
        assert _settings(done.config, "remote_password") == ["ge heim #1"]
        assert "ge heim" not in done.said and not [v for v in done.environment.values() if "ge heim" in v]
    secret.write_text("geheim\nplugin /evil.so\n")
    done = place.run(_REMOTE | {"MQTT_USERNAME": "u", "MQTT_PASSWORD_FILE": str(secret)})
    assert done.code == 1 and "the content of MQTT_PASSWORD_FILE is not valid" in done.said and "geheim" not in done.said


@pytest.mark.parametrize(
    ("level", "types"),
    [
        ("debug", ["all"]),
        ("TRACE", ["all"]),
        ("warn", ["error", "warning"]),
        ("fatal", ["error"]),
        ("loud", ["error", "warning", "notice", "information"]),
    ],
)
def test_log_level(place: _Place, level: str, types: list[str]) -> None:
    """The broker lets through what LOG_LEVEL asks of the plugin. (The plugin refuses a level that is none.)"""
    done = place.run(_REMOTE | {"LOG_LEVEL": level})
    assert _settings(done.config, "log_type") == types and done.environment["LOG_LEVEL"] == level


def test_later_releases(place: _Place) -> None:
    """Whoever has settings of the Go program's later releases is told how to keep their message format."""
    assert "JSON_FIELD_NAMES=topic,content" in place.run(_REMOTE | {"KAFKA_BATCH_SIZE": "1"}).said
    done = place.run(_REMOTE | {"KAFKA_BATCH_SIZE": "1", "JSON_FIELD_NAMES": "a,b"})
    assert "JSON_FIELD_NAMES" not in done.said and done.environment["KAFKA_BATCH_SIZE"] == "1"


# --- the .env file ---


def _with_env_file(place: _Place, text: str, env: Mapping[str, str] | None = None) -> _Done:
    (place.work / ".env").write_text(text)
    place.give()
    return place.run(env or {})


def test_env_file(place: _Place) -> None:
    """The forms that the Go program read: comments, export, a colon, quotes, escapes, variables of the lines above. The
    environment goes first, but an empty variable is none."""
    text = (
        "\n  # comment\nexport MQTT_BROKER=remote # comment\r\nMQTT_TOPIC: \"plant/#\" # comment\n"
        "KAFKA_BROKER='$raw#' \nKAFKA_TOPIC=${MQTT_BROKER}-$MQTT_BROKER\nROUTE=\"a\\nb\\$c\"\n"
        "LOG_LEVEL=debug\nMQTT_CLIENT_ID=a\\b\\$c\nMQTT_TLS=\nFOO=x\nKAFKA_WORKERS = 3"
    )
    done = _with_env_file(place, text, {"LOG_LEVEL": "warn", "MQTT_BROKER": ""})
    assert done.code == 0, done.said
    assert _settings(done.config, "address") == ["remote:8883"]
    assert _settings(done.config, "topic") == ["plant/# in 1"]
    assert _settings(done.config, "remote_clientid") == ["a\\b$c"]
    expected = {"KAFKA_BROKER": "$raw#", "KAFKA_TOPIC": "remote-remote", "ROUTE": "a\nb$c", "LOG_LEVEL": "warn"}
    assert done.environment | expected | {"KAFKA_WORKERS": "3"} == done.environment
    assert "FOO" not in done.environment and "no meaning here has FOO" in done.said


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("MQTT_BROKER", "expected NAME=value"),
        ("=x", "expected NAME=value"),
        ("a b=c", "expected NAME=value"),
        ('KAFKA_TOPIC="x', "the quote"),
        ("KAFKA_TOPIC='x'y", "the quote"),
        ("MQTT_TOPIC=plant/#", "between quotes"),
        ("MQTT_TOPIC=$SYS/x", "$SYS stands in no line above"),
    ],
)
def test_bad_env_file(place: _Place, line: str, reason: str) -> None:
    """A line that is none keeps the broker from starting, and is told by its number. (The Go program dropped such a file
    whole, or cut the value.)"""
    done = _with_env_file(place, f"# x\n{line}\n", _REMOTE)
    assert done.code == 1 and done.arguments == []
    assert ".env:2: " in done.said and reason in done.said, done.said


def test_env_file_knows_every_option(place: _Place) -> None:
    """Each option of the plugin can stand in it, and the Go program's settings."""
    names = re.findall(r"^\| `\w+` \| `(\w+)` \|", good("options").out, re.MULTILINE)
    assert len(names) > 20
    others = ["KAFKA_BATCH_SIZE", "KAFKA_MAX_BATCH_SIZE", "KAFKA_INTERVAL", "MQTT_PORT", "ROOT_CA", "MQTT_CLIENT_CERT"]
    done = _with_env_file(place, "".join(f"{name}=\n" for name in [*names, *others]), _REMOTE)
    assert done.code == 0 and "no meaning" not in done.said, done.said


# --- a broker in its own right, and the rest ---


def test_own_broker(place: _Place) -> None:
    """Somebody has to say who may connect, and where Kafka is."""
    for env, expected in (({}, ["PASSWORD_FILE", "KAFKA_BROKER"]), ({"ALLOW_ANONYMOUS": "1"}, ['ALLOW_ANONYMOUS: "1"'])):
        done = place.run(env)
        assert done.code == 1 and done.config == []
        for text in expected:
            assert text in done.said
    done = place.run({"ALLOW_ANONYMOUS": "true", "KAFKA_BROKER": "k"})
    assert done.code == 0, done.said
    assert [line for line in done.config if not line.startswith("log_")] == [
        "listener 1883",
        "allow_anonymous true",
        "persistence true",
        f"persistence_location {place.data}/",
        "plugin /usr/lib/mosquitto_metamorphosis.so",
    ]
    assert "KAFKA_TEST_MESSAGE" not in done.environment
    passwords = place.root / "passwords"
    passwords.write_text("x:y\n")
    place.give()
    env = {"PASSWORD_FILE": str(passwords), "CONFIG_FILE": "/x", "LISTENER_PORT": "1884", "MQTT_TOPIC": "a b;c"}
    done = place.run(env)
    assert done.code == 0, done.said
    assert _settings(done.config, "password_file") == [str(passwords)] and _settings(done.config, "listener") == ["1884"]
    assert _settings(done.config, "allow_anonymous") == ["false"]
    done = place.run({"ALLOW_ANONYMOUS": "true", "KAFKA_BROKER": "k", "MQTT_TOPIC": "a\nplugin /evil.so"})
    assert done.code == 0 and done.environment["MQTT_TOPIC"] == "a\nplugin /evil.so"  # for the plugin to refuse
    assert not [line for line in done.config if "evil" in line]


def test_mounted_configuration(place: _Place) -> None:
    """Nothing is written, and nothing taken out of the environment."""
    mounted = place.root / "mosquitto" / "config" / "mosquitto.conf"
    mounted.write_text("listener 1883\n")
    for argv in ([], ["mosquitto", "-c", str(mounted)]):
        done = place.run(_REMOTE, *argv)
        assert done.code == 0 and done.arguments == ["-c", str(mounted)] and done.config == []
        assert done.environment | _REMOTE == done.environment and done.environment["HEALTH_ADDRESS"] == "all"
    done = place.run(_REMOTE, "mosquitto", "-c", "/other", "-v")
    assert done.arguments == ["-c", "/other", "-v"] and done.environment["SPOOL_DIR"]


def test_other_commands(place: _Place) -> None:
    """Any other command is run; the Go program's flags are not understood, and the variable is named."""
    assert "metamorphosis" in place.run({}, "metamorphosis", "version").said
    done = place.run({}, "-mqtt-broker=x")
    assert done.code == 2 and "MQTT_BROKER" in done.said
    done = place.run(_REMOTE | {"HEALTH_PORT": "1"}, "health", "--timeout", "1")
    assert done.code == 1
    place.run(_REMOTE)
    done = place.run(_REMOTE | {"HEALTH_PORT": "1"}, "health", "--timeout", "1")
    assert done.code == 1 and "port 1, /livez: " in done.said
