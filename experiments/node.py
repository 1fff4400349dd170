"""What a node of Flower says of itself, in a node config that stays where the node is."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedmetanas.errors import SettingsError

from .client_data import is_installed
from .settings import DEVICES, Settings
from .settings.declarations import DISCLOSE, SITE, SITE_WORDS

SIMULATED = "simulated"  # a key of the inline engine's node config


@dataclass(frozen=True)
class Node:
    """Who a node is, and what it may say and use.

    Attributes
    ----------
    virtual : bool
        Whether it is one of a simulation, which shares the server's machine and settings.
    site : str
        The name of the site that it is; empty if it is none.
    folder : Path or None
        Of its own images.
    partition, partitions : int or None
        Which part of how many it plays, its folder being a copy of everybody's images.
    disclose : {"counts", "none"}
        What the server learns of the sizes of its classes.
    log, results : Path or None
        Where its errors are written, and what it gets at the end.
    device : str or None
        Where it computes; None: as the experiment says.
    """

    virtual: bool = False
    site: str = ""
    folder: Path | None = None
    partition: int | None = None
    partitions: int | None = None
    disclose: str = "counts"
    log: Path | None = None
    results: Path | None = None
    device: str | None = None


def node_of(config: Mapping[str, Any]) -> Node:
    """Read a node config.

    Raises
    ------
    SettingsError
        If a value is not what it must be, or one is missing.
    """
    if "data-path" not in config and _is_simulated(config):
        return Node(virtual=True)
    site, device = str(config.get("site", "")), config.get("device")
    disclose = str(config.get("disclose", DISCLOSE[0]))
    part, parts = _part(config)
    folder, log, results = (_path(config, key) for key in ("data-path", "log", "results"))
    if site and not SITE.fullmatch(site):
        raise SettingsError(f"node config: site: expected {SITE_WORDS}; found {site!r}")
    if site and folder is None:
        raise SettingsError("node config: a site needs data-path, the folder of its images")
    if device is not None and device not in DEVICES:
        raise SettingsError(
            f"node config: device: expected {' or '.join(DEVICES)}; found {device!r}"
        )
    if disclose not in DISCLOSE:
        raise SettingsError(
            f"node config: disclose: expected {' or '.join(DISCLOSE)}; found {disclose!r}"
        )
    if site and part is not None:
        raise SettingsError(
            "node config: partition-id plays a part of a copy of everybody's images, and a site "
            "has its own; leave out one of them"
        )
    return Node(False, site, folder, part, parts, disclose, log, results, device)


def _part(config: Mapping[str, Any]) -> tuple[int, int] | tuple[None, None]:
    """Return which part of how many a node plays, if it says so."""
    part, parts = config.get("partition-id"), config.get("num-partitions")
    if part is None and parts is None:
        return None, None
    if type(part) is int and type(parts) is int and 0 <= part < parts:
        return part, parts
    raise SettingsError(
        "node config: expected partition-id and num-partitions, whole numbers, the first at least "
        f"0 and less than the second; found {part!r} and {parts!r}"
    )


def _path(config: Mapping[str, Any], key: str) -> Path | None:
    text = str(config.get(key, ""))
    try:
        return Path(text).expanduser() if text else None
    except RuntimeError:
        raise SettingsError(f"node config: {key} names a home folder that is unknown") from None


def _is_simulated(config: Mapping[str, Any]) -> bool:
    """Return whether a node is the inline engine's, or a worker of Ray's."""
    ray = sys.modules.get("ray")
    return SIMULATED in config or (ray is not None and ray.is_initialized())


def check_node(node: Node, settings: Settings) -> None:
    """Raise SettingsError unless a node on a machine of its own says which images it learns from.

    Whose they are must be said, too: a folder of one's own is not a copy of everybody's images.
    """
    if node.site and not settings.sites:
        raise SettingsError("this node is a site, and the experiment names no sites")
    if settings.sites and not node.site:
        raise SettingsError("node config: expected site, the name of this site")
    if is_installed(settings) or node.site:
        return
    if node.folder is None or node.partition is None:
        raise SettingsError(
            "node config: expected data-path, the folder of this node's images, and site, its "
            "name; or partition-id and num-partitions, where the folder is a copy of all images"
        )
