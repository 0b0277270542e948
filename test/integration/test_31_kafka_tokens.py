"""OAUTHBEARER with tokens by OpenID Connect, where the librdkafka that runs was built with it; else that is said."""

from __future__ import annotations

from pathlib import Path

from conftest import MakeBroker
from harness.consumer import check_delivery, read_topic
from harness.publisher import Ledger, ReliableClient
from harness.secure import SecureKafka
from harness.token_endpoint import TokenEndpoint
from harness.tool import tool
from harness.wait import stays_true

_SECRET = "the client's own: s3cret"


def _options(kafka: SecureKafka, endpoint: TokenEndpoint, secret_file: Path, topic: str) -> dict[str, str]:
    secret_file.write_text(_SECRET + "\n")
    secret_file.chmod(0o600)
    return {
        "kafka_broker": kafka.address("sasl"),
        "kafka_security_protocol": "sasl_plaintext",
        "kafka_sasl_mechanism": "OAUTHBEARER",
        "kafka_oauth_token_endpoint_url": endpoint.url,
        "kafka_oauth_client_id": "gateway",
        "kafka_oauth_client_secret_file": str(secret_file),
        "kafka_oauth_scope": "kafka write",
        "kafka_topic": topic,
        "kafka_retry_interval": "1",
    }


def _has_tokens(options: dict[str, str], file: Path) -> bool:
    """Was the librdkafka that runs built with OpenID Connect? What check-config says of the options."""
    file.write_text("".join(f"{name} {value}\n" for name, value in options.items()))
    outcome = tool("check-config", file)
    assert _SECRET not in outcome.out + outcome.err
    return "was built without OpenID Connect" not in outcome.out + outcome.err


def test_tokens(secure_kafka: SecureKafka, make_broker: MakeBroker, tmp_path: Path) -> None:
    """Messages arrive by a token; where librdkafka cannot, as Debian 12's 2.0.2, the broker does not start, and the
    log says why and what to do."""
    topic = secure_kafka.new_topic()
    with TokenEndpoint({"gateway": _SECRET}) as endpoint:
        options = _options(secure_kafka, endpoint, tmp_path / "secret", topic)
        broker = make_broker(options)
        if not _has_tokens(options, tmp_path / "mm.conf"):
            code, log = broker.run_refused()
            assert code != 0
            assert "option kafka_oauth_token_endpoint_url: the librdkafka that runs here, " in log
            assert "was built without OpenID Connect (libcurl); the plugin can be built with one that has it" in log
            assert _SECRET not in log and endpoint.n_tokens == 0
            return
        broker.start()
        ledger = Ledger()
        ReliableClient(broker.port, "c", ["a", "b"], ledger, n_messages=100).start().finish(20)
        broker.health.wait_drained(20)
        check_delivery(ledger, read_topic(secure_kafka.bootstrap, topic), repeated_payloads=0)
        assert endpoint.n_tokens >= 1 and endpoint.n_refused == 0
        assert set(endpoint.scopes) == {"kafka write"}
        assert _SECRET not in broker.logs()


def test_no_token(secure_kafka: SecureKafka, make_broker: MakeBroker, tmp_path: Path) -> None:
    """The endpoint does not know the client: that is told, and what is published waits; it is made known, and all
    arrives. (Where librdkafka cannot, the tool says so, too.)"""
    topic = secure_kafka.new_topic()
    with TokenEndpoint({}) as endpoint:
        options = _options(secure_kafka, endpoint, tmp_path / "secret", topic)
        if not _has_tokens(options, tmp_path / "mm.conf"):
            outcome = tool("check-config", tmp_path / "mm.conf")
            assert outcome.code == 1 and "kafka_oauth_token_endpoint_url" in outcome.out + outcome.err
            return
        broker = make_broker(options).start()
        ledger = Ledger()
        ReliableClient(broker.port, "c", ["a"], ledger, n_messages=50).start().finish(20)
        broker.wait_log("there is no token from kafka_oauth_token_endpoint_url", 20)
        stays_true(lambda: broker.health.scrape().in_spool == 50, 2, "everything waits")
        endpoint.clients["gateway"] = _SECRET
        broker.health.wait_drained(40)
        check_delivery(ledger, read_topic(secure_kafka.bootstrap, topic), repeated_payloads=0)
        broker.wait_log("Kafka: mended; it was: there is no token", 10)
        assert _SECRET not in broker.logs()
