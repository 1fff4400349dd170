"""Certificates by which sites know the server, and keys by which the server knows sites.

An authority of the federation's own signs the server's certificate (X.509, RFC 5280). A site's key
is a pair on the curve P-384 in OpenSSH's format, as Flower's SuperNodes want it.
"""

import datetime
import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedmetanas.errors import SettingsError

YEARS = 10  # for which certificates are good
LOOPBACK = ("localhost", "127.0.0.1")  # by which the server's own processes reach it


@dataclass(frozen=True)
class Pair:
    """A private key and what belongs to it in public, both as the bytes of a file."""

    private: bytes
    public: bytes


def node_key() -> Pair:
    """Return a new key of a site: both halves in OpenSSH's format."""
    key = ec.generate_private_key(ec.SECP384R1())
    return Pair(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.OpenSSH,
            serialization.NoEncryption(),
        ),
        key.public_key().public_bytes(
            serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
        ),
    )


def certificates(addresses: Iterable[str]) -> tuple[Pair, Pair]:
    """Return a new authority, and the server's key and certificate that it has signed.

    Parameters
    ----------
    addresses : iterable of str
        Host names and IP addresses at which sites find the server, besides those of this machine.
    """
    ca_key, key = (ec.generate_private_key(ec.SECP384R1()) for _ in range(2))
    ca_name, name = (
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"fedmetanas {words}")])
        for words in ("authority", "server")
    )
    ca = (
        _begun(ca_name, ca_name, ca_key, ca_key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .sign(ca_key, hashes.SHA384())
    )
    names = dict.fromkeys([*LOOPBACK, *addresses])
    certificate = (
        _begun(name, ca_name, key, ca_key)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(map(_alternative, names)), critical=False)
        .sign(ca_key, hashes.SHA384())
    )
    return _pair(ca_key, ca), _pair(key, certificate)


def _begun(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    issuer_key: ec.EllipticCurvePrivateKey,
) -> x509.CertificateBuilder:
    """Return what both certificates have in common."""
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))  # a site's clock may be behind
        .not_valid_after(now + datetime.timedelta(days=365 * YEARS))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()),
            critical=False,
        )
    )


def _usage(signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _alternative(address: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(address))
    except ValueError:
        return x509.DNSName(address)


def _pair(key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> Pair:
    return Pair(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
        certificate.public_bytes(serialization.Encoding.PEM),
    )


def good_until(path: Path) -> datetime.datetime:
    """Return the time (UTC) until which a certificate is good.

    Raises
    ------
    SettingsError
        If the file is no certificate, or is not good today.
    """
    try:
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
    except OSError as error:
        raise SettingsError(f"cannot read {path}: {error.strerror}") from None
    except ValueError:
        raise SettingsError(f"{path} is not a certificate in PEM format") from None
    until, now = certificate.not_valid_after_utc, datetime.datetime.now(datetime.UTC)
    if until < now:
        raise SettingsError(
            f"{path} expired on {until:%Y-%m-%d}; make a new federation and hand out its kits"
        )
    if certificate.not_valid_before_utc > now:
        raise SettingsError(
            f"{path} is good from {certificate.not_valid_before_utc:%Y-%m-%d}; "
            "set the clock of this machine"
        )
    return until


def check_key(path: Path) -> None:
    """Check that a file is a private key in PEM format, or a public one in OpenSSH's.

    Raises
    ------
    SettingsError
        If it is none.
    """
    try:
        if path.suffix == ".pub":
            serialization.load_ssh_public_key(path.read_bytes())
        else:
            serialization.load_pem_private_key(path.read_bytes(), None)
    except OSError as error:
        raise SettingsError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise SettingsError(f"{path} is not a key; bring it back, or make it anew") from None
