"""What can be said behind ``fedmetanas federation``."""

import argparse
from pathlib import Path


def add_federation(command: argparse.ArgumentParser) -> None:
    """Add what can be done with a federation."""
    actions = command.add_subparsers(required=True, dest="action", metavar="ACTION")
    init = actions.add_parser("init", help="make certificates, keys, and a kit for every site")
    init.add_argument("folder", type=Path, metavar="DIR", help="a new or empty folder")
    init.add_argument(
        "--sites", required=True, metavar="NAME,...", help="names of the sites; more can be added"
    )
    init.add_argument(
        "--address",
        action="append",
        default=[],
        metavar="NAME_OR_IP",
        help="where sites find the server, may be given again; default: only on this machine",
    )
    init.add_argument(
        "--port", type=_port, default=9092, metavar="N", help="of the server; default: 9092"
    )
    for name, about in (
        ("add", "make key and kit of a further site"),
        ("remove", "remove a site, or a key that is lost"),
    ):
        change = actions.add_parser(name, help=about)
        change.add_argument("folder", type=Path, metavar="DIR", help="of the federation")
        change.add_argument("name", metavar="NAME", help="of the site")
    up = actions.add_parser("up", help="start the server, until Ctrl-C")
    up.add_argument("folder", nargs="?", type=Path, metavar="DIR", help="of the federation")
    up.add_argument(
        "--local",
        nargs="?",
        const=Path("federation"),
        type=Path,
        metavar="DIR",
        help="play server and sites on this machine, do one run and end; a folder that is not "
        "there is made, with images; default: federation",
    )


def _port(text: str) -> int:
    """Read the number of a port."""
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"expected a number from 1 to 65535; found {text!r}")
    return int(text)
