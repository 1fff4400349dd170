"""Trying the connection to the server: what is wrong with it is said in one line.

Flower's own node only says that an attempt failed, and tries again for ever.
"""

import socket
import ssl
from pathlib import Path

from fedmetanas.errors import SettingsError
from fedmetanas.experiments.console import one_line

from .site_file import host_and_port

SECONDS = 10.0  # to wait for an answer
HTTP = b"HTTP/"

#: OpenSSL's numbers of what is wrong with a certificate (``X509_V_ERR_...``).
NOT_YET, EXPIRED, OTHER_HOST, OTHER_ADDRESS = 9, 10, 62, 64


class NobodyThereError(SettingsError):
    """There is no answer now; there may be one later."""


def connect(superlink: str, root_certificates: Path | None) -> str:
    """Connect to the server and hang up.

    Parameters
    ----------
    superlink : str
        ``HOST:PORT``.
    root_certificates : Path or None
        Certificate of the authority that the server's must be signed by; None means plain HTTP.

    Returns
    -------
    str
        How one is connected, in words.

    Raises
    ------
    NobodyThereError
        If the server cannot be reached now.
    SettingsError
        If it can, and the connection would be refused.
    """
    if root_certificates is None:
        return _connect_plainly(superlink)
    context = _trusting(root_certificates)
    host, _ = host_and_port(superlink)
    try:
        with _socket(superlink) as plain, context.wrap_socket(plain, server_hostname=host) as link:
            until = (link.getpeercert() or {}).get("notAfter", "")
            answer = _answer(link, host)
            if not answer:
                raise _hung_up(superlink, OSError())
            if answer != HTTP:
                raise SettingsError(f"superlink: what listens at {superlink} is no SuperLink")
            return f"encrypted (TLS), the server's certificate is good until {until}"
    except ssl.SSLCertVerificationError as error:
        raise SettingsError(_refused_certificate(error, superlink, root_certificates)) from None
    except ssl.SSLEOFError as error:
        raise _hung_up(superlink, error) from None
    except ssl.SSLError as error:
        if _answer_to_plain(superlink) == HTTP:
            raise SettingsError(
                f"superlink: {superlink} speaks plain HTTP, and with root-certificates this site "
                "wants TLS; ask for the port with TLS, or, in a network that you trust, leave out "
                "root-certificates and key"
            ) from None
        raise SettingsError(
            f"superlink: no TLS with what listens at {superlink} ({one_line(error.reason or error)}"
            "); is it the right port?"
        ) from None
    except OSError as error:
        raise _hung_up(superlink, error) from None


def _connect_plainly(superlink: str) -> str:
    answer = _answer_to_plain(superlink)
    if answer == HTTP:
        return "not encrypted (plain HTTP)"
    if _answers_tls(superlink):
        raise SettingsError(
            f"superlink: {superlink} speaks TLS; set root-certificates to the certificate of its "
            "authority (ca.crt), which whoever runs the server gives you"
        )
    if not answer:
        raise _hung_up(superlink, OSError())
    raise SettingsError(f"superlink: what listens at {superlink} is no SuperLink")


def _trusting(root_certificates: Path) -> ssl.SSLContext:
    """Return what trusts one authority alone."""
    try:
        return ssl.create_default_context(cafile=root_certificates)
    except ssl.SSLError:
        raise SettingsError(
            f"root-certificates: {root_certificates} holds no certificate in PEM form "
            "(-----BEGIN CERTIFICATE-----)"
        ) from None
    except OSError as error:
        raise SettingsError(
            f"root-certificates: cannot read {root_certificates}: {error.strerror}"
        ) from None


def _socket(superlink: str) -> socket.socket:
    """Connect without saying anything yet."""
    host, port = host_and_port(superlink)
    try:
        return socket.create_connection((host, port), SECONDS)
    except socket.gaierror as error:
        raise NobodyThereError(
            f"superlink: the name {host} is not known here ({one_line(error.strerror)}); is it "
            "spelt right, and is there a network?"
        ) from None
    except ConnectionRefusedError:
        raise NobodyThereError(
            f"superlink: nothing listens at {superlink}; is the server up, and is it the right "
            "port?"
        ) from None
    except TimeoutError:
        raise NobodyThereError(
            f"superlink: no answer from {superlink} in {SECONDS:g} seconds; is the address right, "
            "and does a firewall stand between?"
        ) from None
    except (OSError, UnicodeError) as error:
        raise NobodyThereError(f"superlink: cannot reach {superlink}: {one_line(error)}") from None


def _hung_up(superlink: str, error: OSError) -> NobodyThereError:
    return NobodyThereError(
        f"superlink: {superlink} does not go on talking ({one_line(error) or 'it hung up'}); is it "
        "the right port?"
    )


def _answer(link: socket.socket, host: str) -> bytes:
    """Ask for a page that there need not be; return how the answer begins."""
    link.sendall(f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
    return link.recv(len(HTTP))


def _answer_to_plain(superlink: str) -> bytes:
    """Return how the answer without TLS begins; nothing if there is none."""
    with _socket(superlink) as link:
        try:
            return _answer(link, host_and_port(superlink)[0])
        except OSError:
            return b""


def _answers_tls(superlink: str) -> bool:
    """Return whether there is TLS at all; nothing is sent, so whose it is does not matter."""
    anyone = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    anyone.check_hostname = False
    anyone.verify_mode = ssl.CERT_NONE
    with _socket(superlink) as plain:
        try:
            anyone.wrap_socket(plain).close()
        except OSError:
            return False
    return True


def _refused_certificate(
    error: ssl.SSLCertVerificationError, superlink: str, root_certificates: Path
) -> str:
    """Say why the server's certificate is not accepted, and what to do."""
    host, _ = host_and_port(superlink)
    if error.verify_code == EXPIRED:
        return (
            f"superlink: the certificate of {superlink}, or that of its authority, has expired; "
            "ask whoever runs the server for a new one (and look at this machine's clock)"
        )
    if error.verify_code == NOT_YET:
        return (
            f"superlink: the certificate of {superlink} is not valid yet; look at this machine's "
            "clock, then ask whoever runs the server"
        )
    if error.verify_code in (OTHER_HOST, OTHER_ADDRESS):
        return (
            f"superlink: the certificate of {superlink} is for another name than {host}; use the "
            "name that whoever runs the server gave you, or ask for a certificate with this one"
        )
    return (
        f"root-certificates: the certificate of {superlink} is not signed by the authority in "
        f"{root_certificates} ({error.verify_message}); ask whoever runs the server for its "
        "ca.crt, and do not go on without"
    )
