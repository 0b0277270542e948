"""Certificates for tests: authorities, and what they sign, all PEM, with small keys that are made quickly."""

from __future__ import annotations

import datetime
import ipaddress
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")
_A_DAY = datetime.timedelta(days=1)


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.timezone.utc)


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


@cache
def _key(name: str) -> ec.EllipticCurvePrivateKey:
    """One key for each name: nobody here attacks them."""
    return ec.generate_private_key(ec.SECP256R1())


def _key_pem(key: ec.EllipticCurvePrivateKey, password: str | None = None) -> bytes:
    encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if password is not None:
        encryption = serialization.BestAvailableEncryption(password.encode())
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)


def replace_file(path: Path, content: bytes) -> Path:
    """Put a file in another's place in one step, as tools that renew certificates do."""
    fresh = path.with_name(path.name + ".new")
    fresh.write_bytes(content)
    fresh.chmod(0o600)
    os.replace(fresh, path)
    return path


@dataclass(frozen=True)
class Certificate:
    """The files of one certificate."""

    certificate: Path  # NAME.crt
    key: Path  # NAME.key, PKCS#8
    store: Path  # NAME.pem: both in one, as Kafka wants its keystore


class Authority:
    """A certificate authority. Its own certificate is `file`."""

    def __init__(self, directory: Path, name: str) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._name = _name(name)
        self._key = ec.generate_private_key(ec.SECP256R1())
        begin = _now() - 10 * _A_DAY
        self._certificate = (
            x509.CertificateBuilder()
            .subject_name(self._name)
            .issuer_name(self._name)
            .public_key(self._key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(begin)
            .not_valid_after(begin + 3650 * _A_DAY)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        self.pem = self._certificate.public_bytes(serialization.Encoding.PEM)
        self.file = replace_file(directory / f"{name}.crt", self.pem)

    def issue(
        self,
        name: str,
        *,
        common_name: str | None = None,
        names: Sequence[str] = (),
        valid_for: float = 3650 * 86400.0,
        key_password: str | None = None,
    ) -> Certificate:
        """Write NAME.crt, NAME.key and NAME.pem, in the place of any that are there.

        names: host names and addresses; with some it is a server's certificate, else a client's. valid_for: seconds
        from now, negative for one that is out of date. key_password: NAME.key is encrypted (NAME.pem never is).
        """
        end = _now() + datetime.timedelta(seconds=valid_for)
        usage = ExtendedKeyUsageOID.SERVER_AUTH if names else ExtendedKeyUsageOID.CLIENT_AUTH
        key = _key(name)
        builder = (
            x509.CertificateBuilder()
            .subject_name(_name(common_name or name))
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(min(_now(), end) - _A_DAY)
            .not_valid_after(end)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False
            )
        )
        if names:
            builder = builder.add_extension(
                x509.SubjectAlternativeName([_alternative(n) for n in names]), critical=False
            )
        certificate = builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        return Certificate(
            replace_file(self._directory / f"{name}.crt", certificate),
            replace_file(self._directory / f"{name}.key", _key_pem(key, key_password)),
            replace_file(self._directory / f"{name}.pem", _key_pem(key) + certificate),
        )
