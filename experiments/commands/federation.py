"""``fedmetanas federation``: make a federation of sites, change who is in it, and serve it."""

import argparse
import shlex
import sys
import time

from fedmetanas.errors import RunError, SettingsError
from fedmetanas.experiments.console import one_line, say
from fedmetanas.experiments.entry import importing
from fedmetanas.experiments.files import expanded

with importing():
    from fedmetanas.experiments.federation import folder, local, nodes, server

REGISTERING = 30.0  # seconds in which a server that runs takes note of a key


def main(options: argparse.Namespace) -> int:
    """Do what one of the words behind ``federation`` says."""
    try:
        return {"init": _init, "add": _add, "remove": _remove, "up": _up}[options.action](options)
    except RunError as error:
        say(f"fedmetanas: {one_line(error)}", stream=sys.stderr)
        return error.exit_code


def _init(options: argparse.Namespace) -> int:
    root = expanded(options.folder, "DIR")
    sites = [name.strip() for name in options.sites.split(",")]
    made = folder.create(root, sites, options.address, options.port)
    say(
        f"made {made.root}, good until {made.good_until():%Y-%m-%d}:",
        f"  kits/       a folder for each of {', '.join(made.sites)}: hand it over by a safe way",
        "  server/     what the server needs; README.md says how to start it with the machine",
        "  authority/  ca.key signed the server's certificate: keep it secret, or elsewhere",
        f"the server: fedmetanas federation up {shlex.quote(str(options.folder))}",
    )
    if not made.addresses:
        say("without --address only sites on this machine can join")
    return 0


def _add(options: argparse.Namespace) -> int:
    federation = _opened(options)
    until = federation.good_until()
    folder.add(federation, options.name)
    say(
        f"made {federation.kit(options.name)}; the certificate in it is good until {until:%Y-%m-%d}"
    )
    _registered(federation, options.name, f"{options.name} may join")
    return 0


def _remove(options: argparse.Namespace) -> int:
    federation = _opened(options)
    if not folder.remove(federation, options.name):
        say(f"{federation.kit(options.name)} holds more than its kit, and stays")
    _registered(federation, options.name, f"{options.name} may join no more")
    return 0


def _registered(federation: folder.Federation, name: str, words: str) -> None:
    """Wait until a server that runs has taken note of what became of a key."""
    with folder.held(federation) as down:
        if down:
            say(f"{words}, when the server is up")
            return
    ends = time.monotonic() + REGISTERING
    while name in federation.removed or (
        (name in federation.sites) != (name in nodes.read_nodes(federation))
    ):
        if time.monotonic() > ends:
            raise RunError(f"the server that runs takes no note of {name}; see what it says")
        time.sleep(0.2)
    say(words)


def _up(options: argparse.Namespace) -> int:
    if options.local is not None:
        return local.play(expanded(options.folder or options.local, "DIR"))
    if options.folder is None:
        raise SettingsError("up: name the folder of a federation, or give --local")
    server.serve(_opened(options))


def _opened(options: argparse.Namespace) -> folder.Federation:
    return folder.opened(expanded(options.folder, "DIR"))
