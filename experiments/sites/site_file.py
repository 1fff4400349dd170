"""``site.toml``: what a site says of itself, written by the person who works there."""

import re
import tomllib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from fedmetanas.errors import SettingsError
from fedmetanas.experiments.console import one_line
from fedmetanas.experiments.settings import DEVICES, nearest, read_text
from fedmetanas.experiments.settings.checking import shown
from fedmetanas.experiments.settings.declarations import DISCLOSE, SITE, SITE_WORDS

ADDRESS = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):([0-9]{1,5})")


@dataclass(frozen=True)
class SiteFile:
    """What a site's file says; its paths are absolute.

    Attributes
    ----------
    name : str
        Who this is in the federation.
    data : Path
        Folder of the images.
    superlink : str
        Where the server listens, ``HOST:PORT``; an IPv6 address stands in brackets.
    log, results : Path
        Folders for errors with their whole text, and for the networks that were found.
    root_certificates : Path or None
        Certificate of the authority that the server's is signed by. None: plain HTTP.
    key : Path or None
        The site's private key, by which the server knows it. None: anybody can play this site.
    device : {"cpu", "cuda"}
        Where to compute.
    disclose : {"counts", "none"}
        Whether the server learns how many images a class has.
    """

    name: str
    data: Path
    superlink: str
    log: Path
    results: Path
    root_certificates: Path | None = None
    key: Path | None = None
    device: str = "cpu"
    disclose: str = "none"


KEYS = tuple(declared.name.replace("_", "-") for declared in fields(SiteFile))
#: Of what must be there.
EXAMPLES = {"name": '"north"', "data": '"/srv/images"', "superlink": '"fl.example.org:9092"'}
PATHS = ("data", "root-certificates", "key", "log", "results")


def read_site(path: Path) -> SiteFile:
    """Read a site's file. Whether there is what it names is not looked at.

    Parameters
    ----------
    path : Path
        A TOML file; relative paths in it start in its folder.

    Raises
    ------
    SettingsError
        If it cannot be read, a key is unknown or missing, or a value is not allowed.
    """
    try:
        tree = tomllib.loads(read_text(path))
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise SettingsError(f"{path} is not valid TOML: {one_line(error)[:300]}") from None
    tree = {"log": "log", "results": "results"} | tree
    values: dict[str, Any] = {}
    missing = [key for key in EXAMPLES if key not in tree]
    wrong = [f"{key} is missing; write {key} = {EXAMPLES[key]}" for key in missing]
    for key, value in tree.items():
        try:
            values[key] = _checked(key, value, path)
        except SettingsError as error:
            wrong.append(str(error))
    if "key" in values and "root-certificates" not in tree:
        wrong.append("key: only used over TLS; set root-certificates, too, or leave it out")
    if wrong:
        raise SettingsError(f"{path}: {'; '.join(wrong)}")
    return SiteFile(**{key.replace("-", "_"): value for key, value in values.items()})


def host_and_port(superlink: str) -> tuple[str, int]:
    """Return the parts of ``HOST:PORT``, an IPv6 address without its brackets.

    Raises
    ------
    SettingsError
        If it is something else.
    """
    match = ADDRESS.fullmatch(superlink)
    if match is None or not 0 < int(match[2]) < 2**16:
        raise SettingsError(
            "superlink: expected HOST:PORT, such as fl.example.org:9092, without https://; found "
            + shown(superlink)
        )
    return match[1].strip("[]"), int(match[2])


def _checked(key: str, value: Any, path: Path) -> str | Path:
    """Return a value as a site has it."""
    if key not in KEYS:
        raise SettingsError(
            f"unknown key {shown(key)}{nearest(key, KEYS)} (allowed are {', '.join(KEYS)})"
        )
    if not isinstance(value, str) or not value:
        raise SettingsError(f"{key}: expected a text in quotation marks; found {shown(value)}")
    if key in PATHS:
        return _path(key, value, path)
    if key == "name" and not SITE.fullmatch(value):
        raise SettingsError(f"name: expected {SITE_WORDS}; found {shown(value)}")
    for names, of in ((DEVICES, "device"), (DISCLOSE, "disclose")):
        if key == of and value not in names:
            raise SettingsError(
                f"{key}: expected one of {', '.join(names)}; found {shown(value)}"
                + nearest(value, names)
            )
    if key == "superlink":
        host_and_port(value)
    return value


def _path(key: str, value: str, path: Path) -> Path:
    """Return a path that Flower's node config can hold."""
    try:
        found = path.absolute().parent / Path(value).expanduser()
    except RuntimeError:
        raise SettingsError(f"{key}: {value} names a home folder that is unknown") from None
    if not str(found).isprintable() or any(mark in str(found) for mark in '"\\'):
        raise SettingsError(
            f"{key}: expected a path without quotation marks, backslashes and characters that "
            f"cannot be shown; found {shown(str(found))}"
        )
    return found
