"""Being a site: Flower's SuperNode, started and watched, and its refusals in plain words."""

import contextlib
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from fedmetanas.errors import RunError, SettingsError
from fedmetanas.experiments.console import printable, say

from . import superexec
from .connection import NobodyThereError, connect
from .faults import faults_of, warnings_of
from .site_file import SiteFile
from .site_log import FILE, write

PROGRAMS = Path(sys.executable).parent  # Flower's lie beside this Python
SECONDS_TO_WAIT = 70.0  # as long as the server may take the session of a dead process for alive
SECONDS_TO_RETRY = 10.0
SECONDS_TO_END = 10.0
COLOUR = re.compile(r"\x1b\[[0-9;]*m")

#: In Flower's words, what became of an attempt to join.
ACCEPTED = "SuperNode ID:"
UNCONNECTED = "Exit Code: 305"
REFUSED = re.compile(r"\[code: ([0-9]+)\]")  # by the server
FAILED = "Connection attempt failed"
#: What the server refuses by: no key where it wants one; a key that it does not know or that is in
#: use.
NO_KEY, OTHER_KEY = "2001", "2004"


@dataclass
class Heard:
    """How far a SuperNode came until it ended, and by which code the server refused it."""

    accepted: bool = False
    unconnected: bool = False
    code: str = ""


def play(site: SiteFile, wait: Callable[[float], None] = time.sleep) -> None:
    """Be a site until somebody stops it.

    Parameters
    ----------
    site : SiteFile
        Who, with which data, and where the server is.
    wait : callable
        Waits so many seconds.

    Raises
    ------
    SettingsError
        If something that the site's file names is wrong, or the server refuses the site.
    RunError
        If the SuperNode ends before it has connected, for any other reason.
    """
    if faults := faults_of(site):
        raise _told(site, "; ".join(faults))
    for warning in warnings_of(site):
        tell(site, f"warning: {warning}")
    waited = False
    while True:
        _try_connection(site)
        heard = _be_supernode(site)
        if heard.code == NO_KEY:
            raise _told(site, f"{site.superlink} wants a key; set key to the one you were given")
        if heard.code and waited:
            raise _told(site, _why_refused(site, heard.code))
        if heard.code:
            tell(
                site,
                f"refused; an old session of {site.name} may still be open: trying once more in "
                f"{SECONDS_TO_WAIT:g} seconds",
            )
        elif heard.accepted or heard.unconnected:
            tell(site, f"the connection is lost; trying again in {SECONDS_TO_RETRY:g} seconds")
        else:
            raise _ended(site)
        wait(SECONDS_TO_WAIT if heard.code else SECONDS_TO_RETRY)
        waited = bool(heard.code)


def tell(site: SiteFile, words: str) -> None:
    """Say a line on the terminal and in the site's log."""
    _record(site, f"{site.name}: {words}")


def command(site: SiteFile) -> list[str]:
    """Return the command that is this site for Flower."""
    own = {
        "site": site.name,
        "data-path": site.data,
        "disclose": site.disclose,
        "log": site.log,
        "results": site.results,
        "device": site.device,
    }
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]  # on which the processes of this machine talk
    words = [str(PROGRAMS / "flower-supernode"), "--superlink", site.superlink]
    words += ["--port", str(port)]
    words += ["--node-config", " ".join(f'{key}="{value}"' for key, value in own.items())]
    if site.root_certificates is None:
        return [*words, "--insecure"]
    words += ["--root-certificates", str(site.root_certificates)]
    return words if site.key is None else [*words, "--auth-supernode-private-key", str(site.key)]


def environment(site: SiteFile) -> dict[str, str]:
    """Return the environment of the SuperNode and of all that it starts.

    Nothing is looked up or installed elsewhere, and Flower keeps what it keeps with the site's log.
    """
    found = {"OMP_NUM_THREADS": "1", "FLWR_HOME": str(site.log / "flower"), **os.environ}
    found["PATH"] = os.pathsep.join(
        [str(_own_programs(site)), str(PROGRAMS), found.get("PATH", os.defpath)]
    )
    return found | {
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "PYTHONUNBUFFERED": "1",
    }


def _own_programs(site: SiteFile) -> Path:
    """Return a folder in which the SuperNode finds our SuperExec; see :mod:`.superexec`."""
    folder = site.log / "flower" / "programs"
    program = folder / superexec.PROGRAM
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    program.write_text(
        f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m {superexec.__name__} "$@"\n'
    )
    program.chmod(0o700)
    return folder


def _try_connection(site: SiteFile) -> None:
    """Say how one is connected; refuse what no waiting would mend."""
    try:
        tell(site, f"{site.superlink}: {connect(site.superlink, site.root_certificates)}")
    except NobodyThereError as nobody:
        tell(site, f"{nobody}; trying again until it answers")
    except SettingsError as error:
        raise _told(site, str(error)) from None


def _be_supernode(site: SiteFile) -> Heard:
    """Run the SuperNode until it ends or this process is told to end; nothing is left running."""
    heard = Heard()
    node = subprocess.Popen(
        [sys.executable, "-m", f"{__package__}.to_the_end", *command(site)],
        env=environment(site),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # Ctrl-C comes here alone
        umask=0o077,  # nobody else reads what is kept at the site
    )
    assert node.stdout is not None
    listener = threading.Thread(target=_listen, args=(site, node.stdout, heard), daemon=True)
    listener.start()
    try:
        node.wait()
    finally:
        _end(node)
        listener.join(SECONDS_TO_END)
    return heard


def _listen(site: SiteFile, stream: IO[bytes], heard: Heard) -> None:
    """Pass on what the SuperNode says; where it cannot connect, say why, once."""
    said = ""
    with stream:
        for raw in stream:
            line = printable(COLOUR.sub("", raw.decode(errors="replace"))).rstrip()
            is_joined = ACCEPTED in line and not heard.accepted
            heard.accepted |= is_joined
            heard.unconnected |= UNCONNECTED in line
            if not heard.accepted and (refused := REFUSED.search(line)):
                heard.code = refused[1]
            _record(site, line)
            if is_joined:
                tell(site, "joined; it takes part in runs until Ctrl-C")
            if FAILED in line:
                trouble = _trouble(site)
                if trouble not in ("", said):
                    tell(site, trouble)
                said = trouble


def _trouble(site: SiteFile) -> str:
    """Return what is wrong with the connection now; nothing if it is well."""
    try:
        connect(site.superlink, site.root_certificates)
    except SettingsError as error:
        return str(error)
    return ""


def _end(node: "subprocess.Popen[bytes]") -> None:
    """End the SuperNode in good order, and then whatever it has started."""
    if node.poll() is None:
        node.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            node.wait(SECONDS_TO_END)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(node.pid, signal.SIGKILL)
    node.wait()


def _record(site: SiteFile, line: str) -> None:
    """Print a line and log it; a full disk does not end a site."""
    say(line)
    _log(site, line)


def _log(site: SiteFile, line: str) -> None:
    with contextlib.suppress(OSError):
        write(site.log, line)


def _told(site: SiteFile, words: str) -> SettingsError:
    """Log why a site cannot start, and return the error that ends it."""
    _log(site, f"{site.name}: {words}")
    return SettingsError(words)


def _why_refused(site: SiteFile, code: str) -> str:
    if site.key is None or code != OTHER_KEY:
        return f"{site.superlink} refuses this site; see Flower's words in {site.log / FILE}"
    return (
        f"{site.superlink} does not accept the key {site.key}: it is not registered there, or "
        f"another process plays {site.name}; ask whoever runs the server to register its public "
        "half"
    )


def _ended(site: SiteFile) -> RunError:
    words = (
        f"the SuperNode ended before {site.superlink} had accepted it; see {site.log / FILE}, and "
        "whether this machine's clock is right"
    )
    _log(site, f"{site.name}: {words}")
    return RunError(words)
