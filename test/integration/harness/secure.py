"""A Kafka with the security that Kafka has: TLS, mutual TLS, SASL, SASL over TLS, and rights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialDeletion,
    UserScramCredentialUpsertion,
)

from harness import ports
from harness.certificates import LOCAL_NAMES, Authority, Certificate
from harness.kafka import Installation, Kafka
from harness.wait import wait_until

# Each listener beside PLAINTEXT, by our name: Kafka's protocol, and the server's certificate.
#
# In Kafka's settings a listener is its name in capitals without the '_'.
_LISTENERS = {
    "tls": ("SSL", "server"),
    "mtls": ("SSL", "server"),  # wants a certificate of the client
    "sasl": ("SASL_PLAINTEXT", None),
    "sasl_tls": ("SASL_SSL", "server"),
    "tls_expired": ("SSL", "expired"),  # its certificate is out of date
    "tls_wrong_host": ("SSL", "wrong-host"),  # its certificate is another host's
    "plain_only": ("SASL_PLAINTEXT", None),  # offers the mechanism PLAIN alone
}
_PROTOCOL_OPTION = {"SSL": "ssl", "SASL_PLAINTEXT": "sasl_plaintext", "SASL_SSL": "sasl_ssl"}

_PLAIN = "org.apache.kafka.common.security.plain.PlainLoginModule"
_SCRAM = "org.apache.kafka.common.security.scram.ScramLoginModule"
_OAUTH = "org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule"

_SCRAM_MECHANISMS = (ScramMechanism.SCRAM_SHA_256, ScramMechanism.SCRAM_SHA_512)


class SecureKafka(Kafka):
    """A node with a listener for each protocol.

    The tests themselves use the PLAINTEXT listener (`bootstrap`), whose clients may do everything. Users of the
    others, with acls=True, may do what allow() gives them.

    Users: `users` by name. Those that are there when the node starts are known to PLAIN, SCRAM-SHA-256 and
    SCRAM-SHA-512; set_password() works in a moment for SCRAM and after a restart() for PLAIN. With mutual TLS a user is the
    common name of the certificate.
    """

    def __init__(
        self,
        directory: Path,
        properties: Mapping[str, str] | None = None,
        *,
        users: Mapping[str, str] | None = None,
        acls: bool = False,
        installation: Installation | None = None,
        **more: Any,
    ) -> None:
        super().__init__(directory, properties, installation=installation, **more)
        self.users = dict(users or {"alice": "Alice-s3cret;,=", "bob": "bobs-own-word"})
        self.ports = {name: ports.free_port() for name in _LISTENERS}
        self._acls = acls
        self.certificates = directory / "certificates"
        self.authority = Authority(self.certificates, "ca")
        self.other_authority = Authority(self.certificates, "other-ca")
        self.authority.issue("server", common_name="localhost", names=LOCAL_NAMES)
        self.authority.issue("expired", common_name="localhost", names=LOCAL_NAMES, valid_for=-3600)
        self.authority.issue("wrong-host", common_name="kafka.example.test", names=["kafka.example.test"])

    def client_certificate(self, user: str = "alice", **more: Any) -> Certificate:
        """A certificate that the mtls listener takes; more: as Authority.issue()."""
        return self.authority.issue(f"client-{user}", common_name=user, **more)

    def address(self, listener: str) -> str:
        """host:port; the host is in the certificate (of a listener that has a good one)."""
        return f"localhost:{self.ports[listener]}"

    def options(
        self, listener: str, *, user: str = "alice", mechanism: str = "PLAIN", **changes: str | None
    ) -> dict[str, str]:
        """The plugin's options for a listener, with what it takes to get in; `changes` go over them, None takes an
        option away."""
        protocol, certificate = _LISTENERS[listener]
        options: dict[str, str | None] = {
            "kafka_broker": self.address(listener),
            "kafka_security_protocol": _PROTOCOL_OPTION[protocol],
        }
        if certificate is not None:
            options["kafka_tls_ca_file"] = str(self.authority.file)
        if listener == "mtls":
            ours = self.client_certificate(user)
            options |= {"kafka_tls_cert_file": str(ours.certificate), "kafka_tls_key_file": str(ours.key)}
        if protocol.startswith("SASL"):
            options |= {
                "kafka_sasl_mechanism": mechanism,
                "kafka_sasl_username": user,
                "kafka_sasl_password": self.users[user],
            }
        options |= changes
        return {name: value for name, value in options.items() if value is not None}

    # --- users and rights ---------------------------------------------------------------------------------------

    def set_password(self, user: str, password: str) -> None:
        """Make a user, or give it another password. PLAIN: from the next start on."""
        self.users[user] = password
        if self.running:
            self._upsert(user, password)

    def remove_user(self, user: str) -> None:
        del self.users[user]
        if self.running:
            for mechanism in _SCRAM_MECHANISMS:
                self._alter(UserScramCredentialDeletion(user, mechanism))

    def _upsert(self, user: str, password: str) -> None:
        for mechanism in _SCRAM_MECHANISMS:
            self._alter(UserScramCredentialUpsertion(user, ScramCredentialInfo(mechanism, 4096), password.encode()))

    def _alter(self, alteration: Any) -> None:
        """One in a request: Kafka refuses two of the same user."""
        for future in self._admin().alter_user_scram_credentials([alteration]).values():
            future.result(30)

    def allow(self, user: str, operation: str, topic: str) -> None:
        """Give a right, e.g. "WRITE" or "DESCRIBE", on a topic or, with a '*' at the end, on all that begin so."""
        for future in self._admin().create_acls([AclBinding(*self._acl(user, operation, topic))]).values():
            future.result(30)

    def revoke(self, user: str, operation: str, topic: str) -> None:
        """Take a right away again."""
        for future in self._admin().delete_acls([AclBindingFilter(*self._acl(user, operation, topic))]).values():
            assert future.result(30), f"{user} had no right {operation} on {topic}"

    @staticmethod
    def _acl(user: str, operation: str, topic: str) -> tuple[Any, ...]:
        prefixed = topic.endswith("*")
        return (
            ResourceType.TOPIC,
            topic.rstrip("*"),
            ResourcePatternType.PREFIXED if prefixed else ResourcePatternType.LITERAL,
            f"User:{user}",
            "*",
            AclOperation[operation],
            AclPermissionType.ALLOW,
        )

    # --- certificates -------------------------------------------------------------------------------------------

    def reload_certificates(self, listener: str) -> None:
        """Have the running node read the listener's keystore and the authorities it trusts again, which tests have
        put others in the place of. Kafka takes only a keystore for the same names. New connections see them."""
        name = listener.replace("_", "")
        for kind in ("keystore", "truststore"):
            key = f"listener.name.{name}.ssl.{kind}.location"
            # Its own value again: Kafka looks at the file then.
            entry = ConfigEntry(key, self._network()[key], incremental_operation=AlterConfigOpType.SET)
            resource = ConfigResource(
                ConfigResource.Type.BROKER, str(self.node_id), incremental_configs=[entry]
            )
            # Kafka tries the new store in handshakes with itself first: seconds, on a machine that is busy.
            self._admin().incremental_alter_configs([resource], request_timeout=60)[resource].result(90)

    # --- the node -----------------------------------------------------------------------------------------------

    def wait_started(self) -> float:
        started = super().wait_started()
        for user, password in self.users.items():
            self._upsert(user, password)

        def known() -> bool:
            described = self._admin().describe_user_scram_credentials(list(self.users))
            return all(future.exception(10) is None for future in described.values())

        wait_until(known, 20, "the users are known")
        return started

    def _network(self) -> dict[str, str]:
        properties = super()._network()
        properties["listeners"] += "".join(
            f",{name.replace('_', '').upper()}://127.0.0.1:{port}" for name, port in self.ports.items()
        )
        properties["advertised.listeners"] = f"PLAINTEXT://127.0.0.1:{self.port}" + "".join(
            f",{name.replace('_', '').upper()}://localhost:{port}" for name, port in self.ports.items()
        )
        properties["listener.security.protocol.map"] = "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT" + "".join(
            f",{name.replace('_', '').upper()}:{protocol}" for name, (protocol, _) in _LISTENERS.items()
        )
        for name, (protocol, certificate) in _LISTENERS.items():
            prefix = f"listener.name.{name.replace('_', '')}."
            if certificate is not None:
                properties |= self._tls(prefix, certificate)
            if protocol.startswith("SASL"):
                properties |= self._sasl(prefix, plain_only=name == "plain_only")
        properties["listener.name.mtls.ssl.client.auth"] = "required"
        # "CN=alice" is the user alice.
        properties["listener.name.mtls.ssl.principal.mapping.rules"] = "RULE:^CN=([^,]+).*$/$1/,DEFAULT"
        if self._acls:
            properties |= {
                "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
                "super.users": "User:ANONYMOUS",  # who comes by PLAINTEXT: the tests and the node itself
                "allow.everyone.if.no.acl.found": "false",
            }
        return properties

    def _tls(self, prefix: str, certificate: str) -> dict[str, str]:
        return {
            prefix + "ssl.keystore.type": "PEM",
            prefix + "ssl.keystore.location": str(self.certificates / f"{certificate}.pem"),
            prefix + "ssl.truststore.type": "PEM",
            prefix + "ssl.truststore.location": str(self.authority.file),
        }

    def _sasl(self, prefix: str, *, plain_only: bool) -> dict[str, str]:
        users = "".join(f' user_{name}="{password}"' for name, password in self.users.items())
        properties = {
            prefix + "sasl.enabled.mechanisms": "PLAIN",
            prefix + "plain.sasl.jaas.config": f"{_PLAIN} required{users};",
        }
        if not plain_only:
            properties |= {
                prefix + "sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER",
                prefix + "scram-sha-256.sasl.jaas.config": f"{_SCRAM} required;",
                prefix + "scram-sha-512.sasl.jaas.config": f"{_SCRAM} required;",
                # Without more it takes any token that is not signed, if it is not out of date.
                prefix + "oauthbearer.sasl.jaas.config": f"{_OAUTH} required unsecuredLoginStringClaim_sub=\"kafka\";",
            }
        return properties
