"""The folder of a federation: what is in it, made whole or not at all.

::

    DIR/authority/      the authority's certificate and key
    DIR/server/         all that the server reads: certificate, key, keys/NAME.pub of every site
    DIR/kits/NAME/      all that the site NAME needs
    DIR/results/        where runs are written
"""

import fcntl
import ipaddress
import os
import re
import shlex
import shutil
import tempfile
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from fedmetanas import __version__
from fedmetanas.errors import SettingsError
from fedmetanas.experiments.files import unwritable
from fedmetanas.experiments.settings.declarations import SITE, SITE_WORDS

from .authority import certificates, good_until, node_key
from .kits import fill, remove_kit, write
from .programs import program

LABEL = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)")


@dataclass(frozen=True)
class Federation:
    """A federation's folder, and at which addresses and port its server is found.

    Attributes
    ----------
    root : Path
        Absolute.
    addresses : tuple of str
        Host names and IPv4 addresses; if there are none, all sites are on the server's machine.
    port : int
        From 1 to 65535.
    """

    root: Path
    addresses: tuple[str, ...]
    port: int

    @property
    def server(self) -> Path:
        """The folder that the server reads."""
        return self.root / "server"

    @property
    def results(self) -> Path:
        """The folder in which runs are written."""
        return self.root / "results"

    @property
    def nodes(self) -> Path:
        """The file that says which node a name is bound to."""
        return self.server / "nodes.json"

    @property
    def sites(self) -> list[str]:
        """The names of all sites, sorted."""
        return sorted(path.stem for path in (self.server / "keys").glob("*.pub"))

    @property
    def removed(self) -> list[str]:
        """The names whose keys were removed, and that the server does not know of yet, sorted."""
        return sorted(path.stem for path in (self.server / "keys").glob("*.removed"))

    def good_until(self) -> datetime:
        """Return the time (UTC) until which sites can know the server.

        Raises
        ------
        SettingsError
            As :func:`.authority.good_until`, of either certificate.
        """
        return min(good_until(self.server / name) for name in ("ca.crt", "server.crt"))

    def public_key(self, name: str) -> Path:
        """Return the file with a site's public key."""
        return self.server / "keys" / f"{name}.pub"

    def removed_key(self, name: str) -> Path:
        """Return the file that a removed key becomes, until the server knows it no more."""
        return self.public_key(name).with_suffix(".removed")

    def kit(self, name: str) -> Path:
        """Return the folder with a site's kit."""
        return self.root / "kits" / name


def create(root: Path, sites: Sequence[str], addresses: Sequence[str], port: int) -> Federation:
    """Make the folder of a federation, whole or not at all.

    Raises
    ------
    SettingsError
        If a name or an address is none, or there is something in the folder.
    UnwritableError
        If it cannot be written.
    """
    for name in sites:
        _check_name(name)
    if twice := sorted({name for name in sites if sites.count(name) > 1}):
        raise SettingsError(f"--sites: {', '.join(twice)} stands there twice")
    for address in addresses:
        _check_address(address)
    root = root.absolute()
    with _whole(root) as draft:
        federation = Federation(draft, tuple(addresses), port)
        for folder in ("authority", "server", "server/keys", "kits", "results"):
            (draft / folder).mkdir(mode=0o700)
        authority, server = certificates(addresses)
        write(draft / "authority" / "ca.key", authority.private, 0o600)
        write(draft / "authority" / "ca.crt", authority.public)
        write(draft / "server" / "ca.crt", authority.public)
        write(draft / "server" / "server.key", server.private, 0o600)
        write(draft / "server" / "server.crt", server.public)
        listed = ", ".join(f'"{address}"' for address in addresses)
        settings = f"addresses = [{listed}]\nport = {port}\n"
        write(draft / "server" / "federation.toml", settings.encode())
        unit, start = (root / "server" / name for name in ("fedmetanas-server.service", "start.sh"))
        fill(
            draft / "server",
            "server",
            fedmetanas=shlex.quote(program("fedmetanas")),
            start=_in_a_unit(start),
            unit=shlex.quote(str(unit)),
            user=str(os.getuid()),
            port=str(port),
            until=f"{federation.good_until():%Y-%m-%d}",
        )
        for name in sites:
            _make_site(federation, name)
    return opened(root)


def opened(root: Path) -> Federation:
    """Return the federation in a folder.

    Raises
    ------
    SettingsError
        If there is none, or its file is damaged.
    """
    path = root.absolute() / "server" / "federation.toml"
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
        addresses, port = tuple(found["addresses"]), found["port"]
        if not isinstance(port, int) or not all(isinstance(one, str) for one in addresses):
            raise ValueError("addresses are texts, and the port is a number")
    except FileNotFoundError:
        raise SettingsError(
            f"{root} is not the folder of a federation; "
            "`fedmetanas federation init DIR --sites NAME,...` makes one"
        ) from None
    except OSError as error:
        raise SettingsError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise SettingsError(f"{path} is damaged: {error}") from None
    return Federation(root.absolute(), addresses, port)


def add(federation: Federation, name: str) -> None:
    """Make key and kit of a further site; a server registers it within seconds, or at its start.

    Raises
    ------
    SettingsError
        If the name is none or taken, or there is a folder where its kit would be.
    UnwritableError
        If they cannot be written.
    """
    _check_name(name)
    if name in federation.sites:
        raise SettingsError(
            f"{name} is a site already; for a new key, first "
            f"`fedmetanas federation remove {federation.root} {name}`"
        )
    if federation.kit(name).exists():
        raise SettingsError(f"{federation.kit(name)} is there already; move it away")
    try:
        federation.kit(name).parent.mkdir(mode=0o700, exist_ok=True)
        _make_site(federation, name)
    except OSError as error:
        raise unwritable(federation.kit(name), error) from error


def remove(federation: Federation, name: str) -> bool:
    """Remove a site's key, and its kit; return whether nothing of the kit's folder is left.

    A server takes note of it within seconds, or at its start. What the kit did not bring, such as
    the results of a site that ran in it, stays.

    Raises
    ------
    SettingsError
        If there is no such site.
    UnwritableError
        If they cannot be removed.
    """
    if name not in federation.sites:
        there = ", ".join(federation.sites) or "none"
        raise SettingsError(f"{name} is no site of {federation.root}; it has {there}")
    kit = federation.kit(name)
    try:
        os.replace(federation.public_key(name), federation.removed_key(name))
        remove_kit(kit, name)
    except OSError as error:
        raise unwritable(kit, error) from error
    return not kit.exists()


@contextmanager
def held(federation: Federation) -> Iterator[bool]:
    """Hold the server's folder, unless a server that runs holds it; yield whether it is ours."""
    handle = os.open(federation.server, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(handle)


def _make_site(federation: Federation, name: str) -> None:
    """Write a site's kit, and then its public key: a site that has one is whole."""
    pair = node_key()
    address = (*federation.addresses, "127.0.0.1")[0]
    with _whole(federation.kit(name)) as draft:
        write(draft / f"{name}.key", pair.private, 0o600)
        write(draft / "ca.crt", (federation.server / "ca.crt").read_bytes())
        fill(
            draft,
            "site",
            name=name,
            superlink=f"{address}:{federation.port}",
            until=f"{federation.good_until():%Y-%m-%d}",
            version=__version__,
        )
    write(federation.public_key(name), pair.public)


@contextmanager
def _whole(folder: Path) -> Iterator[Path]:
    """Let a folder be filled under another name, and give it its own when that has succeeded."""
    try:
        draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))  # 0700
        try:
            yield draft
            os.rename(draft, folder)  # refused if there is anything in it
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    except FileExistsError:
        raise SettingsError(f"{folder} is there already; name a new folder") from None
    except OSError as error:
        if os.path.lexists(folder):
            raise SettingsError(f"{folder} is not an empty folder; name a new one") from None
        raise unwritable(folder, error) from error


def _in_a_unit(path: Path) -> str:
    """Return a path as it is written in a unit of systemd."""
    text = str(path).replace("\\", "\\\\").replace('"', '\\"')
    return '"' + text.replace("%", "%%").replace("$", "$$") + '"'


def _check_name(name: str) -> None:
    if not SITE.fullmatch(name):
        raise SettingsError(f"the name of a site is {SITE_WORDS}; found {name!r}")


def _check_address(address: str) -> None:
    words = f"--address: expected a host name or an IPv4 address; found {address!r}"
    try:
        ipaddress.IPv4Address(address)
    except ValueError:
        labels = address.split(".")
        if len(address) > 253 or labels[-1].isdecimal() or not all(map(LABEL.fullmatch, labels)):
            raise SettingsError(words) from None
