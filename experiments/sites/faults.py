"""What is wrong with what a site's file names: all of it, a line each."""

import os
import stat
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import load_ssh_private_key

from .site_file import SiteFile


def faults_of(site: SiteFile) -> list[str]:
    """Return what keeps a site from starting, the connection left aside."""
    found = [_fault_of_data(site.data)]
    if site.key is not None:
        found.append(_fault_of_key(site.key))
    found += [_fault_of_own("log", site.log), _fault_of_own("results", site.results)]
    return [fault for fault in found if fault]


def warnings_of(site: SiteFile) -> list[str]:
    """Return what a site should know before it starts, though it may."""
    found = []
    if site.root_certificates is None:
        found.append(
            "root-certificates is not set: nothing is encrypted, and anybody between can read and "
            "change all that is sent"
        )
    if site.key is None:
        found.append(f"key is not set: anybody who reaches the server can play {site.name}")
    elif site.key.is_file() and site.key.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        found.append(f"key: others on this machine can read it; chmod 600 {site.key}")
    return found


def _fault_of_data(data: Path) -> str:
    if not data.is_dir():
        return f"data: {data} is no folder; set data to the folder of your images"
    if not os.access(data, os.R_OK | os.X_OK):
        return f"data: {data} may not be read by the user that runs this"
    return ""


def _fault_of_key(key: Path) -> str:
    wanted = "expected the private key that whoever runs the server gave you"
    try:
        loaded = load_ssh_private_key(key.read_bytes(), None)
    except OSError as error:
        return f"key: cannot read {key}: {error.strerror}; {wanted}"
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return f"key: {key} is no private key of OpenSSH's form without a passphrase; {wanted}"
    if not isinstance(loaded, EllipticCurvePrivateKey):
        return f"key: {key} is a key of another kind than ECDSA; {wanted}"
    return ""


def _fault_of_own(name: str, folder: Path) -> str:
    """Make a folder of the site's own, or say why it cannot be used."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        return f"{name}: cannot make the folder {folder}: {error.strerror}"
    if not os.access(folder, os.W_OK | os.X_OK):
        return f"{name}: {folder} may not be written by the user that runs this"
    return ""
