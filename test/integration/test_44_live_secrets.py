"""Certificates and secrets that change while messages flow."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from conftest import MakeBroker, MakeSecureKafka
from harness.audit import audit_topics
from harness.broker import Broker
from harness.certificates import Authority, replace_file
from harness.live import KEPT, MountedSecret, reloads, wait_reloads
from harness.load import Load, streams
from harness.secure import SecureKafka

RENEWED = "reload: the certificates or secrets that have changed are in use"
REFUSED = "the certificates or secrets have changed and do not work"


def _files(node: SecureKafka, authority: Authority, trusted: bytes, **more: Any) -> dict[str, bytes]:
    """What a pod is given: a certificate of the authority, and those that it trusts."""
    issued = authority.issue("client-alice", common_name="alice", **more)
    return {
        "ca.crt": trusted,
        "tls.crt": issued.certificate.read_bytes(),
        "tls.key": issued.key.read_bytes(),
    }


def _broker(make_broker: MakeBroker, node: SecureKafka, secret: MountedSecret, topic: str, **more: str) -> Broker:
    return make_broker(
        {
            "kafka_broker": node.address("mtls"),
            "kafka_topic": topic,
            "kafka_security_protocol": "ssl",
            "kafka_tls_ca_file": secret.path("ca.crt"),
            "kafka_tls_cert_file": secret.path("tls.crt"),
            "kafka_tls_key_file": secret.path("tls.key"),
            **more,
        }
    )


def _check(broker: Broker, load: Load, topic: str, node: SecureKafka) -> str:
    load.finish(20)
    assert load.n_closed == 0, "an MQTT client was disconnected"
    broker.health.wait_drained(30)
    broker.health.check_ledger_quiet()
    audit = audit_topics(node.bootstrap, topic, load.books)
    audit.check(repeated_ids=0, repeated_payloads=0)
    return str(audit)


def test_authority_and_certificates_rotate(
    make_secure_kafka: MakeSecureKafka,
    make_broker: MakeBroker,
    tmp_path: Path,
    seconds: Callable[[float, float], float],
    figure: Callable[[str], None],
) -> None:
    """A new authority comes and the old one goes, step by step at Kafka and in the plugin's mounted secret, as often as
    time allows, under load. The client's certificate is a new one at each step."""
    node = make_secure_kafka()
    node.start()
    topic = node.create_topic("t", partitions=2)
    pause = seconds(2.5, 20)
    ours = node.authority
    secret = MountedSecret(tmp_path / "secret", _files(node, ours, ours.pem))
    broker = _broker(make_broker, node, secret, topic, kafka_workers="2").start()
    broker.wait_log("Kafka is reached")
    load = Load(broker.port, streams(4, "load", rate=400)).start()
    n_steps = 0

    def renew(authority: Authority, trusted: bytes) -> None:
        nonlocal n_steps
        n_steps += 1
        secret.update(_files(node, authority, trusted))
        wait_reloads(broker, "applied", n_steps, 30)
        time.sleep(pause)

    for turn in range(int(seconds(1, 4))):
        fresh = Authority(tmp_path / f"authority-{turn}", "ca")
        both = ours.pem + fresh.pem
        replace_file(node.authority.file, both)  # Kafka trusts both, and so do we
        node.reload_certificates("mtls")
        renew(ours, both)
        renew(fresh, both)
        # Kafka's own certificate is of the new one, and the old one goes.
        names = ["localhost", "127.0.0.1", "::1"]
        replace_file(
            node.certificates / "server.pem", fresh.issue("server", common_name="localhost", names=names).store.read_bytes()
        )
        node.reload_certificates("mtls")
        renew(fresh, fresh.pem)
        replace_file(node.authority.file, fresh.pem)
        node.reload_certificates("mtls")
        renew(fresh, fresh.pem)
        ours = fresh
    assert reloads(broker, "failed") == 0
    figure(f"{n_steps} renewals: {_check(broker, load, topic, node)}")


def test_a_certificate_that_expires_is_told_of(
    secure_kafka: SecureKafka, make_broker: MakeBroker, tmp_path: Path
) -> None:
    """In nine days: a line of the log and a metric say so at the start; a renewed one is used, and the metric tells."""
    expires = "metamorphosis_kafka_tls_certificate_expiry_timestamp_seconds"
    authority, day = secure_kafka.authority, 24 * 3600
    secret = MountedSecret(
        tmp_path / "secret", _files(secure_kafka, authority, authority.pem, valid_for=9 * day + 3600)
    )
    broker = _broker(make_broker, secure_kafka, secret, secure_kafka.new_topic()).start()
    broker.wait_log(r"our certificate \(kafka_tls_cert_file\) expires on \d{4}-\d\d-\d\d, in 9 days;")
    broker.wait_log("Kafka is reached")
    assert abs(broker.health.scrape().get(expires) - time.time() - 9 * day) < 2 * 3600
    secret.update(_files(secure_kafka, authority, authority.pem, valid_for=100 * day))
    wait_reloads(broker, "applied", 1)
    assert abs(broker.health.scrape().get(expires) - time.time() - 100 * day) < 2 * 3600
    time.sleep(1.5)
    assert broker.logs().count("our certificate") == 1


def test_what_does_not_work_is_not_used(
    make_secure_kafka: MakeSecureKafka, make_broker: MakeBroker, tmp_path: Path
) -> None:
    """A certificate of somebody else, a key that does not belong to it, half a key, and no file at all: what was in use
    goes on, the log and the metrics say what is wrong; what is mended is used."""
    node = make_secure_kafka()
    node.start()
    topic = node.create_topic("t")
    good = _files(node, node.authority, node.authority.pem)
    secret = MountedSecret(tmp_path / "secret", good)
    broker = _broker(make_broker, node, secret, topic).start()
    broker.wait_log("Kafka is reached")
    load = Load(broker.port, streams(2, "load", rate=300)).start()
    foreign = _files(node, node.other_authority, node.authority.pem)
    other_key = node.authority.issue("client-bob", common_name="bob").key.read_bytes()
    bad = [
        foreign,
        good | {"tls.key": other_key},
        good | {"tls.key": good["tls.key"][: len(good["tls.key"]) // 2]},
        good | {"ca.crt": node.other_authority.pem},
        {"ca.crt": good["ca.crt"], "tls.key": good["tls.key"]},  # the certificate is gone
    ]
    for number, files in enumerate(bad, 1):
        secret.update(files)
        wait_reloads(broker, "failed", number, 30)
        if number == 1:  # it is not tried again and again: not before 10 s
            time.sleep(4)
            assert reloads(broker, "failed") == 1
        lines = broker.wait_log(f"{REFUSED}.*{KEPT}", count=number)
        assert "PRIVATE KEY" not in lines[-1]
        assert broker.health.scrape().get("metamorphosis_config_last_reload_successful") == 0
        secret.update(good)
        broker.wait_log("the certificates and secrets are again those in use", count=number)
        assert broker.health.scrape().get("metamorphosis_config_last_reload_successful") == 1
    secret.update(_files(node, node.authority, node.authority.pem))
    wait_reloads(broker, "applied", 1)
    _check(broker, load, topic, node)


def test_files_written_one_after_the_other(
    make_secure_kafka: MakeSecureKafka, make_broker: MakeBroker, tmp_path: Path
) -> None:
    """Certificate and key are written in place, slowly, in pieces: they are used when both are whole."""
    node = make_secure_kafka()
    node.start()
    topic = node.create_topic("t")
    secret = MountedSecret(tmp_path / "secret", _files(node, node.authority, node.authority.pem))
    broker = _broker(make_broker, node, secret, topic).start()
    load = Load(broker.port, streams(2, "load", rate=300)).start()
    fresh = node.authority.issue("client-carol", common_name="alice")  # another key
    for name, source in (("tls.key", fresh.key), ("tls.crt", fresh.certificate)):
        with Path(secret.path(name)).open("wb") as file:
            content = source.read_bytes()
            for begin in range(0, len(content), 40):
                file.write(content[begin : begin + 40])
                file.flush()
                time.sleep(0.3)
    wait_reloads(broker, "applied", 1, 30)
    broker.wait_log(RENEWED)
    _check(broker, load, topic, node)


def test_a_password_changes_first_in_the_file(
    make_secure_kafka: MakeSecureKafka, make_broker: MakeBroker, tmp_path: Path
) -> None:
    """A password is changed in the file before it is at Kafka: the old one goes on; when Kafka has it, it is used."""
    node = make_secure_kafka()
    node.start()
    topic = node.create_topic("t")
    secret = MountedSecret(tmp_path / "secret", {"password": node.users["alice"].encode() + b"\n"})
    options = node.options("sasl_tls", kafka_sasl_password=None, kafka_sasl_password_file=secret.path("password"))
    broker = make_broker({**options, "kafka_topic": topic, "log_level": "debug"}).start()
    broker.wait_log("Kafka is reached")
    load = Load(broker.port, streams(2, "load", rate=300)).start()
    secret.update({"password": b"An-0ther w;ord\n"})
    wait_reloads(broker, "failed", 1, 30)
    broker.wait_log(f"{REFUSED}.*{KEPT}")
    assert "An-0ther" not in broker.logs()
    node.set_password("alice", "An-0ther w;ord")
    node.restart()
    wait_reloads(broker, "applied", 1, 60)
    load.finish(30)
    assert load.n_closed == 0
    broker.health.wait_drained(30)
    audit_topics(node.bootstrap, topic, load.books).check(repeated_ids=None, repeated_payloads=0)
    assert "An-0ther" not in broker.logs()


def test_a_password_changes_first_at_kafka(
    make_secure_kafka: MakeSecureKafka, make_broker: MakeBroker, tmp_path: Path
) -> None:
    """Kafka has another password than the file: an outage, until the file has it, too."""
    node = make_secure_kafka()
    node.start()
    topic = node.create_topic("t")
    secret = MountedSecret(tmp_path / "secret", {"password": node.users["alice"].encode()})
    options = node.options("sasl_tls", kafka_sasl_password=None, kafka_sasl_password_file=secret.path("password"))
    broker = make_broker({**options, "kafka_topic": topic}).start()
    broker.wait_log("Kafka is reached")
    load = Load(broker.port, streams(2, "load", rate=300)).start()
    node.set_password("alice", "An-0ther w;ord")
    node.restart()
    broker.health.wait_for(lambda m: m.total("metamorphosis_kafka_up") == 0, 30, "Kafka lets us not in")
    secret.update({"password": b"An-0ther w;ord"})
    wait_reloads(broker, "applied", 1, 60)
    load.finish(30)
    assert load.n_closed == 0
    broker.health.wait_drained(30)
    audit_topics(node.bootstrap, topic, load.books).check(repeated_ids=None, repeated_payloads=0)
