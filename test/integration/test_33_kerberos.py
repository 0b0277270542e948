"""Kerberos (GSSAPI), with a real key distribution center."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from conftest import MakeBroker
from harness import ports
from harness.consumer import check_delivery, read_topic
from harness.kafka import Kafka
from harness.kerberos import Realm
from harness.publisher import Ledger, ReliableClient
from harness.wait import stays_true

_JAAS = 'com.sun.security.auth.module.Krb5LoginModule required useKeyTab=true storeKey=true keyTab="{}" principal="{}";'


@dataclass
class _Guarded:
    """A realm, and a Kafka that is in it."""

    realm: Realm
    kafka: Kafka
    address: str


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[_Guarded]:
    directory = tmp_path_factory.mktemp("kerberos")
    realm = Realm(directory / "realm")
    service = realm.principal("kafka/localhost")
    keytab = realm.keytab("kafka/localhost", directory / "kafka.keytab")
    kafka = Kafka(directory / "kafka", jvm_options=[f"-Djava.security.krb5.conf={realm.client_config}"])
    port = ports.free_port()
    addresses = f"PLAINTEXT://127.0.0.1:{kafka.port},KERBEROS://"
    kafka.properties = {
        "listeners": f"{addresses}127.0.0.1:{port},CONTROLLER://127.0.0.1:{kafka.controller_port}",
        "advertised.listeners": f"{addresses}localhost:{port}",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,KERBEROS:SASL_PLAINTEXT",
        "listener.name.kerberos.sasl.enabled.mechanisms": "GSSAPI",
        "listener.name.kerberos.gssapi.sasl.jaas.config": _JAAS.format(keytab, service),
        "sasl.kerberos.service.name": "kafka",
    }
    try:
        kafka.start()
        yield _Guarded(realm, kafka, f"localhost:{port}")
    finally:
        kafka.close()
        realm.close()


def _options(guarded: _Guarded, principal: str, keytab: Path, topic: str) -> dict[str, str]:
    return {
        "kafka_broker": guarded.address,
        "kafka_security_protocol": "sasl_plaintext",
        "kafka_sasl_mechanism": "GSSAPI",
        "kafka_kerberos_principal": principal,
        "kafka_kerberos_keytab": str(keytab),
        "kafka_topic": topic,
        "kafka_retry_interval": "1",
    }


def test_a_ticket_lets_us_in(guarded: _Guarded, make_broker: MakeBroker, tmp_path: Path) -> None:
    """Messages arrive, in order, and nothing is said of trouble."""
    principal = guarded.realm.principal("mosquitto")
    keytab = guarded.realm.keytab("mosquitto", tmp_path / "mosquitto.keytab")
    topic = guarded.kafka.new_topic(2)
    broker = make_broker(_options(guarded, principal, keytab, topic), env=guarded.realm.environment(tmp_path / "tickets")).start()
    ledger = Ledger()
    ReliableClient(broker.port, "c", [f"t/{n}" for n in range(8)], ledger, n_messages=400).start().finish(20)
    broker.health.wait_drained(20)
    check_delivery(ledger, read_topic(guarded.kafka.bootstrap, topic), repeated_payloads=0)
    assert "Messages wait" not in broker.logs()


def test_a_keytab_of_before(guarded: _Guarded, make_broker: MakeBroker, tmp_path: Path) -> None:
    """The principal has another key than the keytab: it is said, what is published waits; the right keytab is put in
    its place, is used without a restart, and all arrives."""
    principal = guarded.realm.principal("gateway")
    keytab = guarded.realm.keytab("gateway", tmp_path / "gateway.keytab")
    guarded.realm.keytab("gateway", tmp_path / "right.keytab")
    topic = guarded.kafka.new_topic()
    broker = make_broker(_options(guarded, principal, keytab, topic), env=guarded.realm.environment(tmp_path / "tickets")).start()
    ledger = Ledger()
    ReliableClient(broker.port, "c", ["a", "b"], ledger, n_messages=100).start().finish(20)
    (line, *_) = broker.wait_log("Kerberos does not let us in", 20)
    assert "look at kafka_kerberos_principal, its keytab and the ticket" in line
    stays_true(lambda: broker.health.scrape().in_spool == 100, 2, "everything waits")
    assert broker.logs().count("Messages wait") == 1
    (tmp_path / "right.keytab").replace(keytab)
    broker.health.wait_drained(60)
    check_delivery(ledger, read_topic(guarded.kafka.bootstrap, topic), repeated_payloads=0)
