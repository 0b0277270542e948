"""A secured Kafka: every protocol with right and wrong credentials, what is said of it, and that all goes on when it is
mended."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from conftest import MakeBroker, MakeKafka, MakeSecureKafka
from harness import mqtt
from harness.broker import Broker
from harness.certificates import LOCAL_NAMES
from harness.consumer import check_delivery, read_topic, wait_records
from harness.kafka import installed, unique
from harness.publisher import Ledger, ReliableClient
from harness.secure import SecureKafka
from harness.wait import stays_true

_SYSTEM_AUTHORITIES = "/etc/ssl/certs/ca-certificates.crt"  # as update-ca-certificates writes them
_SCRAM_FIXED = (2, 6, 1)  # librdkafka that can log in to Kafka 4 by SCRAM


def _client_version(broker: Broker) -> tuple[int, ...]:
    """Of the librdkafka that runs in the plugin."""
    (line,) = broker.wait_log(r"metamorphosis: version \S+, librdkafka ")
    found = re.search(r"librdkafka (\d+)\.(\d+)\.(\d+)", line)
    assert found is not None
    return tuple(int(part) for part in found.groups())


def _troubles(broker: Broker) -> list[str]:
    """The lines that tell what has to be mended."""
    return [line for line in broker.logs().splitlines() if "Messages wait" in line]


def _secret_file(directory: Path, name: str, secret: str) -> str:
    directory.mkdir(parents=True, exist_ok=True)
    file = directory / name
    file.write_text(secret + "\n")
    file.chmod(0o600)
    return str(file)


# --- what is right ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("listener", ["tls", "mtls", "sasl", "sasl_tls"])
@pytest.mark.parametrize("workers", [1, 3])
def test_right_credentials(
    secure_kafka: SecureKafka, make_broker: MakeBroker, listener: str, workers: int
) -> None:
    """Messages arrive, in order, and nothing is said of trouble."""
    topic = secure_kafka.new_topic(2)
    broker = make_broker({**secure_kafka.options(listener), "kafka_topic": topic, "kafka_workers": workers}).start()
    ledger = Ledger()
    ReliableClient(broker.port, "c", [f"t/{n}" for n in range(8)], ledger, n_messages=400).start().finish(20)
    broker.health.wait_drained(20)
    check_delivery(ledger, read_topic(secure_kafka.bootstrap, topic), repeated_payloads=0)
    assert not _troubles(broker)
    assert " Kafka: " not in broker.logs()


def test_secrets_from_files(secure_kafka: SecureKafka, make_broker: MakeBroker, tmp_path: Path) -> None:
    """The password, and the password of an encrypted key, are read from files."""
    topic = secure_kafka.new_topic()
    broker = make_broker(
        {
            **secure_kafka.options("sasl_tls", kafka_sasl_password=None),
            "kafka_sasl_password_file": _secret_file(tmp_path, "password", secure_kafka.users["alice"]),
            "kafka_topic": topic,
        }
    ).start()
    mqtt.publish_all(broker.port, [("a", b"1")])
    wait_records(secure_kafka.bootstrap, topic, 1)
    broker.stop()

    ours = secure_kafka.authority.issue("client-encrypted", common_name="alice", key_password="key's own, word")
    broker = make_broker(
        {
            **secure_kafka.options(
                "mtls", kafka_tls_cert_file=str(ours.certificate), kafka_tls_key_file=str(ours.key)
            ),
            "kafka_tls_key_password_file": _secret_file(tmp_path, "key-password", "key's own, word"),
            "kafka_topic": topic,
        }
    ).start()
    mqtt.publish_all(broker.port, [("a", b"2")])
    wait_records(secure_kafka.bootstrap, topic, 2)


def test_authorities_of_the_system(secure_kafka: SecureKafka, make_broker: MakeBroker) -> None:
    """Without kafka_tls_ca_file those count that the system trusts. Only the broker sees that ours is one of them."""
    topic = secure_kafka.new_topic()
    trusting = f"mount --bind '{secure_kafka.authority.file}' {_SYSTEM_AUTHORITIES} && exec \"$@\""
    broker = make_broker(
        {**secure_kafka.options("tls", kafka_tls_ca_file=None), "kafka_topic": topic},
        launcher=["unshare", "--mount", "sh", "-c", trusting, "sh"],
    ).start()
    mqtt.publish_all(broker.port, [("a", b"1")])
    wait_records(secure_kafka.bootstrap, topic, 1)
    assert not _troubles(broker)


def test_host_names_are_not_checked_when_that_is_asked_for(
    secure_kafka: SecureKafka, make_broker: MakeBroker
) -> None:
    topic = secure_kafka.new_topic()
    broker = make_broker(
        {**secure_kafka.options("tls_wrong_host"), "kafka_tls_verify_hostname": "false", "kafka_topic": topic}
    ).start()
    broker.wait_log("can pose as Kafka", 5)
    mqtt.publish_all(broker.port, [("a", b"1")])
    wait_records(secure_kafka.bootstrap, topic, 1)


# --- what is wrong ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Case:
    listener: str
    says: str  # a pattern of the line that tells it
    changes: dict[str, str | None] = field(default_factory=dict)
    certificate: str = ""  # "other-ca", "expired": a certificate of ours that is wrong


_WRONG = {
    "unknown authority": _Case("tls", "authority that is not trusted; kafka_tls_ca_file has", {"ca": "other"}),
    "the system's authorities": _Case("tls", "authority that is not trusted", {"kafka_tls_ca_file": None}),
    "Kafka's certificate has expired": _Case("tls_expired", "its certificate has expired; renew it at Kafka"),
    "Kafka's certificate is another host's": _Case("tls_wrong_host", "its certificate is for another host name"),
    "no certificate of ours": _Case(
        "mtls",
        "it wants a certificate of ours; set kafka_tls_cert_file",
        {"kafka_tls_cert_file": None, "kafka_tls_key_file": None},
    ),
    "our certificate is of another authority": _Case("mtls", "it refused our certificate; ", certificate="other-ca"),
    "our certificate has expired": _Case("mtls", "it refused our certificate, which has expired", certificate="expired"),
    "wrong password": _Case(
        "sasl", r"it refused the user or the password .user \"alice\", PLAIN.", {"kafka_sasl_password": "no"}
    ),
    "unknown user, over TLS": _Case(
        "sasl_tls", r"it refused the user or the password .user \"eve\", PLAIN.", {"kafka_sasl_username": "eve"}
    ),
    "mechanism that is not offered": _Case(
        "plain_only",
        "it does not offer the mechanism SCRAM-SHA-512, but PLAIN; mend kafka_sasl_mechanism",
        {"kafka_sasl_mechanism": "SCRAM-SHA-512"},
    ),
    "plain words to TLS": _Case(
        "tls", "its listener seems to speak TLS", {"kafka_security_protocol": None, "kafka_tls_ca_file": None}
    ),
    "SASL in plain words to TLS": _Case(
        "sasl_tls",
        "its listener seems to speak TLS",
        {"kafka_security_protocol": "sasl_plaintext", "kafka_tls_ca_file": None},
    ),
    "TLS to plain words": _Case(
        "sasl", "its listener does not seem to speak TLS", {"kafka_security_protocol": "sasl_ssl"}
    ),
    "no SASL where it is wanted": _Case(
        "sasl",
        "its listener seems to want SASL",
        {
            "kafka_security_protocol": None,
            "kafka_sasl_mechanism": None,
            "kafka_sasl_username": None,
            "kafka_sasl_password": None,
        },
    ),
    "SASL where it is not known": _Case(
        "tls",
        "its listener does not take SASL",
        {
            "kafka_security_protocol": "sasl_ssl",
            "kafka_sasl_mechanism": "PLAIN",
            "kafka_sasl_username": "alice",
            "kafka_sasl_password": "x",
        },
    ),
}


def _wrong_options(kafka: SecureKafka, case: _Case) -> dict[str, str]:
    changes = dict(case.changes)
    if changes.pop("ca", None):
        changes["kafka_tls_ca_file"] = str(kafka.other_authority.file)
    if case.certificate == "other-ca":
        ours = kafka.other_authority.issue("client-mallory", common_name="alice")
        changes |= {"kafka_tls_cert_file": str(ours.certificate), "kafka_tls_key_file": str(ours.key)}
    elif case.certificate == "expired":
        ours = kafka.authority.issue("client-late", common_name="alice", valid_for=-60)
        changes |= {"kafka_tls_cert_file": str(ours.certificate), "kafka_tls_key_file": str(ours.key)}
    return kafka.options(case.listener, **changes)


@pytest.mark.parametrize("name", _WRONG)
def test_wrong_credentials(secure_kafka: SecureKafka, make_broker: MakeBroker, tmp_path: Path, name: str) -> None:
    """The log says what is wrong and what to do, once; the spool keeps what is published, and has it still after a
    restart with the right settings, when all of it arrives."""
    case = _WRONG[name]
    topic = secure_kafka.new_topic()
    more = {"kafka_topic": topic, "kafka_retry_interval": 1, "spool_dir": str(tmp_path / "spool")}
    broker = make_broker({**_wrong_options(secure_kafka, case), **more}).start()
    ledger = Ledger()
    ReliableClient(broker.port, "c", ["a", "b"], ledger, n_messages=100).start().finish(20)
    (line, *_) = broker.wait_log(f"metamorphosis: Kafka at localhost:{secure_kafka.ports[case.listener]}: ", 10)
    assert re.search(case.says, line), line
    stays_true(lambda: broker.health.scrape().in_spool == 100, 2, "everything waits")
    assert len(_troubles(broker)) == 1, broker.logs()
    assert broker.health.status("/readyz") == 200
    assert broker.health.status("/healthz") == 423
    assert broker.stop().seconds < 10

    mended = make_broker({**secure_kafka.options("tls"), **more}).start()
    mended.health.wait_drained(20)
    check_delivery(ledger, read_topic(secure_kafka.bootstrap, topic), repeated_payloads=0)


# --- mended while it runs -----------------------------------------------------------------------------------------


def _refusals(kafka: SecureKafka) -> int:
    """How often the node has refused a login, by its own log."""
    return kafka.log.read_text(errors="replace").count("Failed authentication with")


def test_password_changed_and_mended(
    make_secure_kafka: MakeSecureKafka, make_broker: MakeBroker, seconds: Callable[[float, float], float]
) -> None:
    """The password is changed at Kafka under load: it is said, the plugin keeps what is published and does not storm
    Kafka with the wrong password; it is changed back: all arrives, in order, and it is said that it is mended."""
    kafka = make_secure_kafka()
    kafka.start()
    right = kafka.users["alice"]
    topic = kafka.new_topic(2)
    broker = make_broker(
        {
            **kafka.options("sasl"),
            "kafka_topic": topic,
            "kafka_workers": 4,
            "kafka_retry_interval": 2,
            "dead_letter_topic": kafka.new_topic(),
        }
    ).start()
    ledger = Ledger()
    topics = [f"t/{n}" for n in range(8)]
    client = ReliableClient(broker.port, "c", topics, ledger, rate=200).start()
    broker.health.wait_for(lambda m: m.delivered > 100, 20, "the load flows")

    kafka.stop()
    kafka.set_password("alice", "another word")
    kafka.start()
    broker.wait_log("it refused the user or the password", 15)
    before = _refusals(kafka)
    pause = seconds(8, 40)
    time.sleep(pause)
    tries = _refusals(kafka) - before
    # All workers together: after 2, 4, 8, 16, 16 s, where each of them would try once a second.
    assert tries <= 1 + pause / 2, f"{tries} tries within {pause} s"
    assert len(_troubles(broker)) == 1, broker.logs()

    kafka.stop()
    kafka.set_password("alice", right)
    kafka.start()
    # The next try is up to 16 s away, the client's own pause up to 10 s more. It must not take another one.
    broker.wait_log("Kafka: mended; it was: it refused the user or the password", 30)
    client.finish(20)
    broker.health.wait_drained(40)
    check_delivery(ledger, read_topic(kafka.bootstrap, topic), repeated_ids=5000)
    broker.health.check_ledger_quiet()


def test_certificate_expires_and_is_renewed(make_secure_kafka: MakeSecureKafka, make_broker: MakeBroker) -> None:
    """Kafka's certificate has run out under load, which its next start brings to light; it is renewed while Kafka runs.
    Everything arrives, in order."""
    kafka = make_secure_kafka()
    kafka.start()
    topic = kafka.new_topic(2)
    broker = make_broker({**kafka.options("tls"), "kafka_topic": topic}).start()
    ledger = Ledger()
    client = ReliableClient(broker.port, "c", ["a", "b"], ledger, rate=200).start()
    broker.health.wait_for(lambda m: m.delivered > 100, 20, "the load flows")
    kafka.authority.issue("server", common_name="localhost", names=LOCAL_NAMES, valid_for=-60)
    kafka.restart()
    broker.wait_log("its certificate has expired; renew it at Kafka", 20)

    kafka.authority.issue("server", common_name="localhost", names=LOCAL_NAMES)
    kafka.reload_certificates("tls")
    broker.wait_log("Kafka: mended; it was: its certificate has expired", 20)
    client.finish(20)
    broker.health.wait_drained(20)
    assert len(_troubles(broker)) == 1, broker.logs()
    check_delivery(ledger, read_topic(kafka.bootstrap, topic), repeated_ids=5000)


def test_no_right_at_all(make_secure_kafka: MakeSecureKafka, make_broker: MakeBroker) -> None:
    """A user without any right: what is missing is said; given the right, all arrives in order."""
    kafka = make_secure_kafka(acls=True)
    kafka.start()
    topic = kafka.new_topic()
    broker = make_broker({**kafka.options("sasl"), "kafka_topic": topic, "kafka_retry_interval": 1}).start()
    ledger = Ledger()
    ReliableClient(broker.port, "c", ["a", "b"], ledger, n_messages=100).start().finish(20)
    broker.wait_log("give our user the right WRITE", 15)
    stays_true(lambda: broker.health.scrape().in_spool == 100, 2, "everything waits")
    kafka.allow("alice", "WRITE", topic)
    broker.health.wait_drained(60)
    check_delivery(ledger, read_topic(kafka.bootstrap, topic), repeated_payloads=0)


# --- SCRAM, and the librdkafka that runs --------------------------------------------------------------------------


@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-256", "SCRAM-SHA-512"])
def test_scram(secure_kafka: SecureKafka, make_broker: MakeBroker, mechanism: str) -> None:
    """With Kafka 4 librdkafka before 2.6.1 cannot, and it is said so at start and when it fails; later ones can, and
    where the password is changed at Kafka it is said, all waits, and arrives when it is mended."""
    topic, user = secure_kafka.new_topic(), unique("user")
    secure_kafka.set_password(user, "the first")
    options = {**secure_kafka.options("sasl", user=user, mechanism=mechanism), "kafka_topic": topic}
    broker = make_broker({**options, "kafka_retry_interval": 1}).start()
    ledger = Ledger()
    ReliableClient(broker.port, "c", ["a"], ledger, n_messages=20).start().finish(20)
    old = _client_version(broker) < _SCRAM_FIXED
    if not (old and secure_kafka.major_version >= 4):
        broker.health.wait_drained(20)
        check_delivery(ledger, read_topic(secure_kafka.bootstrap, topic), repeated_payloads=0)
        assert ("Kafka 4 refuses" in broker.logs()) == old
        assert not _troubles(broker)
        broker.stop()
        secure_kafka.set_password(user, "another")
        broker = make_broker({**options, "kafka_retry_interval": 1}).start()
        mqtt.publish_all(broker.port, [("a", b"2")])
        broker.wait_log("it refused the user or the password", 15)
        stays_true(lambda: broker.health.scrape().in_spool == 1, 2, "everything waits")
        secure_kafka.set_password(user, "the first")
        wait_records(secure_kafka.bootstrap, topic, 21, timeout=30)
        broker.wait_log("Kafka: mended; it was: it refused the user or the password", 10)
    else:
        broker.wait_log("SCRAM of librdkafka before 2.6.1: Kafka 4 refuses right passwords", 5)
        broker.wait_log("or this is the fault of librdkafka before 2.6.1", 15)
        stays_true(lambda: broker.health.scrape().in_spool == 20, 2, "everything waits")
        broker.abandon()


@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-256", "SCRAM-SHA-512"])
def test_scram_with_kafka_3_9(
    make_secure_kafka: MakeSecureKafka, make_broker: MakeBroker, mechanism: str
) -> None:
    """Every librdkafka can; a wrong password is refused, and works once it is Kafka's."""
    kafka = make_secure_kafka(installation=installed("3.9.1"))
    kafka.start()
    topic = kafka.new_topic()
    more = {"kafka_topic": topic, "kafka_retry_interval": 1}
    broker = make_broker({**kafka.options("sasl_tls", mechanism=mechanism), **more}).start()
    mqtt.publish_all(broker.port, [("a", b"1")])
    wait_records(kafka.bootstrap, topic, 1)
    assert not _troubles(broker)
    broker.stop()
    broker = make_broker({**kafka.options("sasl_tls", mechanism=mechanism, kafka_sasl_password="new"), **more}).start()
    mqtt.publish_all(broker.port, [("a", b"2")])
    broker.wait_log("it refused the user or the password", 15)
    kafka.set_password("alice", "new")
    wait_records(kafka.bootstrap, topic, 2, timeout=30)
    broker.wait_log("Kafka: mended", 10)


def test_faults_of_the_client_are_told_once(make_kafka: MakeKafka, make_broker: MakeBroker) -> None:
    """At start, for the librdkafka that runs."""
    broker = make_broker({"kafka_broker": "127.0.0.1:1", "kafka_workers": 3}).start()
    version = _client_version(broker)
    broker.wait_log("Connection refused", 10)
    told = [line for line in broker.logs().splitlines() if "librdkafka before 2.3.0" in line]
    assert len(told) == (1 if version < (2, 3, 0) else 0)
    assert "SCRAM" not in broker.logs()


# --- secrets ------------------------------------------------------------------------------------------------------


def test_secrets_are_shown_nowhere(secure_kafka: SecureKafka, make_broker: MakeBroker, tmp_path: Path) -> None:
    """Not in the log at its loudest, with librdkafka's own debugging; not on any page; not when they are wrong, given
    twice or in the wrong place."""
    secrets = [f"Geheim-{n}-{unique('x')}" for n in range(4)]
    options = {
        **secure_kafka.options("sasl_tls", kafka_sasl_password=secrets[0]),
        "log_level": "trace",
        "rdkafka.debug": "all",
        "kafka_topic": secure_kafka.new_topic(),
        "kafka_retry_interval": 1,
    }
    broker = make_broker(options, config_lines=["log_type all"]).start()
    mqtt.publish_all(broker.port, [("a", b"1")])
    broker.wait_log("it refused the user or the password", 15)
    pages = ["/", "/metrics", "/healthz", "/readyz", "/livez", "/dead", "/status"]
    seen = broker.logs() + "".join(broker.health.request(page).text for page in pages)
    broker.abandon()
    key = secure_kafka.authority.issue("client-shut", common_name="alice", key_password=secrets[1])
    mtls = secure_kafka.options(
        "mtls", kafka_tls_cert_file=str(key.certificate), kafka_tls_key_file=str(key.key)
    )
    wrong = [
        {**mtls, "kafka_tls_key_password": secrets[2]},  # another one than the key's
        {**mtls, "kafka_tls_key_password": secrets[1] + "\t"},
        {"kafka_sasl_password": secrets[0], "kafka_workers": 0},
        {**options, "rdkafka.sasl.password": secrets[3]},
        {**options, "kafka_sasl_password_file": _secret_file(tmp_path, "two-lines", f"{secrets[3]}\n{secrets[3]}")},
        {**options, "kafka_oauth_client_secret": secrets[3]},
    ]
    for number, given in enumerate(wrong):
        refused = make_broker([*given.items()], config_lines=["log_type all"])
        if number == 1:
            refused.start()  # blanks at the end are cut off: the key opens
            seen += refused.logs()
            refused.stop()
            continue
        _, log = refused.run_refused()
        seen += log
    twice = make_broker([*options.items(), ("kafka_sasl_password", secrets[1])])
    seen += twice.run_refused()[1]
    assert "given twice" in seen and "kafka_tls_key_file" in seen
    for secret in secrets:
        assert secret not in seen, [line for line in seen.splitlines() if secret in line][:3]


def test_files_that_are_open_to_all(secure_kafka: SecureKafka, make_broker: MakeBroker, tmp_path: Path) -> None:
    """A secret that everybody on the machine can read is warned of, and taken."""
    file = Path(_secret_file(tmp_path, "password", secure_kafka.users["alice"]))
    file.chmod(0o644)
    topic = secure_kafka.new_topic()
    options = secure_kafka.options("sasl", kafka_sasl_password=None, kafka_sasl_password_file=str(file))
    broker = make_broker({**options, "kafka_topic": topic}).start()
    broker.wait_log("kafka_sasl_password_file: .* is open to everybody on this machine", 5)
    mqtt.publish_all(broker.port, [("a", b"1")])
    wait_records(secure_kafka.bootstrap, topic, 1)
