"""Authorities, certificates and node keys for tests of connections."""

import datetime
import ipaddress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from cryptography.x509.oid import NameOID

NOW = datetime.datetime.now(datetime.UTC)
DAY = datetime.timedelta(days=1)


class Authority:
    """An authority of a test's own, which signs servers' certificates."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        self.folder = folder
        self.key = ec.generate_private_key(ec.SECP384R1())
        self.subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = self._builder(self.subject, self.key, NOW - 9 * DAY, NOW + 9 * DAY)
        basic = x509.BasicConstraints(ca=True, path_length=None)
        signed = builder.add_extension(basic, critical=True).sign(self.key, hashes.SHA384())
        self.path = folder / f"{name}.crt"
        self.path.write_bytes(signed.public_bytes(Encoding.PEM))

    def server(
        self,
        *names: str,
        before: datetime.datetime = NOW + 9 * DAY,
        after: datetime.datetime = NOW - 8 * DAY,
    ) -> tuple[Path, Path]:
        """Return the files of a server's certificate and key; no names: 127.0.0.1."""
        key = ec.generate_private_key(ec.SECP384R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "server")])
        own: list[x509.GeneralName] = [x509.DNSName(name) for name in names]
        own = own or [x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        builder = self._builder(subject, key, after, before)
        builder = builder.add_extension(x509.SubjectAlternativeName(own), critical=False)
        signed = builder.sign(self.key, hashes.SHA384())
        number = len(list(self.folder.iterdir()))
        certificate, private = self.folder / f"{number}.crt", self.folder / f"{number}.pem"
        certificate.write_bytes(signed.public_bytes(Encoding.PEM))
        form = (Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        private.write_bytes(key.private_bytes(*form))
        return certificate, private

    def _builder(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        after: datetime.datetime,
        before: datetime.datetime,
    ) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(after)
            .not_valid_after(before)
        )


def node_key(path: Path) -> Path:
    """Write a node key as Flower wants it, its public half beside it."""
    key = ec.generate_private_key(ec.SECP384R1())
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    path.chmod(0o600)
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    path.with_suffix(".pub").write_bytes(public)
    return path
