"""The server of a federation: Flower's SuperLink, for as long as this process runs."""

import http.client
import os
import shlex
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import NoReturn

from fedmetanas.errors import RunError, SettingsError
from fedmetanas.experiments.console import one_line, say
from fedmetanas.experiments.files import unwritable, write_file

from .authority import check_key
from .folder import Federation, held
from .nodes import CONNECTION, read_nodes, register_keys
from .programs import PATH, end, start

STARTING = 60.0  # seconds until the server must answer
WATCHING = 2.0  # seconds between two looks at the keys
CONTROL = "/v1/control/list-nodes"
ELSEWHERE = "192.0.2.1"  # an address of no machine, kept for documents (RFC 5737)


def serve(federation: Federation) -> NoReturn:
    """Serve a federation until this process is stopped.

    Raises
    ------
    SettingsError
        If it cannot start: its certificate has expired, its port is in use, it runs already.
    RunError
        If Flower's SuperLink does not come up, refuses a key, or ends by itself.
    """
    until = federation.good_until()
    with running(federation) as server:
        say(
            f"server: {', '.join(federation.addresses) or 'this machine alone'}, "
            f"port {federation.port}; its certificate is good until {until:%Y-%m-%d}",
            f"sites that may join: {', '.join(federation.sites) or 'none'}",
            f"results: {federation.results}",
            f"Flower's own lines: {federation.server / 'log'}",
            "runs are taken from this machine alone (from elsewhere: ssh "
            f"-L {federation.port}:127.0.0.1:{federation.port}); to start one:",
            f"  {' '.join(_start_command(federation))}",
        )
        _register_as_keys_change(federation, server)
    raise RunError(f"the server ended by itself; see {federation.server / 'log'}")


@contextmanager
def running(federation: Federation) -> Iterator[subprocess.Popen[bytes]]:
    """Start the server and register all keys; end it, and all that it started, in the end."""
    federation.good_until()  # or there is no use in starting
    for key in (federation.server / "server.key", *map(federation.public_key, federation.sites)):
        check_key(key)
    with held(federation) as ours:
        if not ours:
            raise SettingsError(f"a server runs already in {federation.server}")
        host = "0.0.0.0" if federation.addresses else "127.0.0.1"
        _check_port(host, federation.port)
        environment = surroundings(federation)
        _write_connection(federation)
        server = _start(federation, host, environment)
        try:
            _wait_until_up(federation, server)
            register_keys(federation, environment)
            yield server
        finally:
            end([server])


def surroundings(federation: Federation) -> dict[str, str]:
    """Return the environment of the server, and of commands that speak to it."""
    return {
        **os.environ,
        "PATH": PATH,
        "FLWR_HOME": str(federation.server / "flwr"),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FEDMETANAS_RESULTS": str(federation.results),
        "FEDMETANAS_NODES": str(federation.nodes),
        "FORWARDED_ALLOW_IPS": "127.0.0.1",  # nobody else says for whom he calls
        "PYTHONUNBUFFERED": "1",
    }


def _start_command(federation: Federation) -> Iterator[str]:
    """Yield the words of the command that starts a run."""
    for name in ("FLWR_HOME", "FEDMETANAS_RESULTS"):
        yield f"{name}={shlex.quote(surroundings(federation)[name])}"
    yield "fedmetanas run EXPERIMENT"
    yield shlex.quote(f"sites=[{', '.join(federation.sites)}]")
    yield f"--engine superlink --superlink {CONNECTION}"


def _check_port(host: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise SettingsError(
                f"port {port} of this machine cannot be had: {error.strerror}; "
                "end what uses it (another server?)"
            ) from None


def _write_connection(federation: Federation) -> None:
    """Write the file in which Flower's commands find the server, and make its other folders."""
    for folder in (federation.server / "flwr", federation.server / "state", federation.results):
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise unwritable(folder, error) from error
    certificate = str(federation.server / "ca.crt").replace("\\", "\\\\").replace('"', '\\"')
    text = (
        f'[superlink]\ndefault = "{CONNECTION}"\n\n[superlink.{CONNECTION}]\n'
        f'address = "127.0.0.1:{federation.port}"\nroot-certificates = "{certificate}"\n'
    )
    write_file(federation.server / "flwr" / "config.toml", text.encode())


def _start(
    federation: Federation, host: str, environment: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    folder = federation.server
    words = [sys.executable, "-m", "fedmetanas.experiments.federation.superlink"]
    words += ["--host", host, "--port", str(federation.port)]
    words += ["--ssl-certfile", str(folder / "server.crt")]
    words += ["--ssl-keyfile", str(folder / "server.key")]
    words += ["--ssl-ca-certfile", str(folder / "ca.crt")]
    words += ["--enable-supernode-auth", "--disable-runtime-dependency-installation"]
    words += ["--database", str(folder / "state" / "state.db")]
    try:
        log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    except OSError as error:
        raise unwritable(folder / "log", error) from error
    try:
        # A neutral folder: an app's process looks for modules in the one where the server started.
        return start(words, env=environment, cwd=folder / "flwr", stdout=log, stderr=log)
    finally:
        os.close(log)


def _wait_until_up(federation: Federation, server: subprocess.Popen[bytes]) -> None:
    """Wait until the server answers, and answers callers from elsewhere as it should.

    Raises
    ------
    RunError
        If it ends, does not answer in time, or would let others start runs.
    """
    log = federation.server / "log"
    ends = time.monotonic() + STARTING
    while (status := _answer(federation)) is None:
        if server.poll() is not None:
            raise RunError(f"the server ended as it started: {_last_line(federation)}; see {log}")
        if time.monotonic() > ends:
            raise RunError(f"the server gave no answer in {STARTING:.0f} seconds; see {log}")
        time.sleep(0.3)
    if status != http.client.FORBIDDEN:
        raise RunError(
            "this version of Flower would take runs from other machines; install the version that "
            f"fedmetanas asks for (status {status})"
        )


def _answer(federation: Federation) -> int | None:
    """Return the status with which the server answers who is elsewhere and would start runs.

    Flower's web server believes callers on this machine when they say for whom they call.
    """
    context = ssl.create_default_context(cafile=federation.server / "ca.crt")
    call = http.client.HTTPSConnection("127.0.0.1", federation.port, timeout=5, context=context)
    with suppress(OSError, http.client.HTTPException):
        call.request("POST", CONTROL, headers={"X-Forwarded-For": ELSEWHERE})
        return call.getresponse().status
    return None


def _last_line(federation: Federation) -> str:
    lines = (federation.server / "log").read_text(errors="replace").strip().splitlines()
    return one_line(lines[-1])[:200] if lines else "it said nothing"


def _register_as_keys_change(federation: Federation, server: subprocess.Popen[bytes]) -> None:
    """Register the keys that are added and forget those that are removed, until the server ends."""
    tried = None
    while server.poll() is None:
        time.sleep(WATCHING)
        state = federation.sites, federation.removed, read_nodes(federation)
        if state == tried or (not state[1] and state[0] == sorted(state[2])):
            continue
        try:
            say(*register_keys(federation, surroundings(federation)))
        except RunError as error:
            say(f"fedmetanas: {error}", stream=sys.stderr)
        tried = state
