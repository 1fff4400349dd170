"""Flower's own command line, which submits runs, shows what they say, and stops them."""

import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fedmetanas.errors import SettingsError
from fedmetanas.experiments.console import one_line
from fedmetanas.experiments.settings import nearest

#: The one that is installed here. What lies in the current folder is not taken for it.
FLWR = (sys.executable, "-P", "-m", "flwr.cli.app")
ENVIRONMENT = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}
ANSWER = 120.0  # seconds in which a SuperLink must answer


class UnansweredError(SettingsError):
    """The SuperLink does not answer, or refuses."""


def address_of(superlink: str) -> str:
    """Return the address of a connection in Flower's configuration.

    Raises
    ------
    SettingsError
        If there is none of that name.
    """
    home = os.environ.get("FLWR_HOME")
    path = (Path(home) if home else Path("~/.flwr").expanduser()) / "config.toml"
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        tree = {}
    except OSError as error:
        raise SettingsError(f"--superlink: cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        raise SettingsError(f"--superlink: {path} is not TOML: {error}") from None
    tables = tree.get("superlink", {})
    known = {name: one for name, one in tables.items() if isinstance(one, dict)}
    if superlink not in known:
        there = f"there are: {', '.join(known)}" if known else "there is none"
        raise SettingsError(
            f"--superlink: expected a connection of {path} ([superlink.NAME] with its address); "
            f"{there}; found {superlink!r}{nearest(superlink, known)}"
        )
    return str(known[superlink].get("address", ""))


def submit(app: Path, superlink: str, run_config: Path) -> str:
    """Start a run of the app in a folder, with the run config in a file; return its number.

    Raises
    ------
    UnansweredError
        If the SuperLink does not answer, or refuses it.
    """
    answer = _answer("run", str(app), superlink, "--run-config", str(run_config))
    return str(answer["run-id"])


def status(superlink: str, run_id: str) -> tuple[str, str]:
    """Return the status of a run, such as ``finished:failed``, and what is said of it.

    Raises
    ------
    UnansweredError
        If the SuperLink does not answer, or does not know the run.
    """
    (run,) = _answer("ls", superlink, "--run-id", run_id)["runs"]
    return str(run["status"]), str(run["status-details"])


def stop(superlink: str, run_id: str) -> None:
    """Stop a run.

    Raises
    ------
    UnansweredError
        If the SuperLink does not answer, or refuses.
    """
    _answer("stop", run_id, superlink)


def lines(superlink: str, run_id: str) -> Iterator[str]:
    """Yield the lines that a run has said and says, until it ends or the connection does."""
    command = [*FLWR, "log", run_id, superlink, "--stream"]
    with subprocess.Popen(
        command,
        env=_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is ours
        text=True,
        encoding="utf-8",
        errors="replace",
    ) as process:
        try:
            yield from (line.rstrip("\n") for line in process.stdout or ())
        finally:
            process.kill()


def _answer(*arguments: str) -> dict[str, Any]:
    """Ask Flower for something; return its answer."""
    try:
        done = subprocess.run(
            [*FLWR, *arguments, "--format", "json"],
            env=_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            start_new_session=True,
            text=True,
            encoding="utf-8",
            errors="replace",
            timeout=ANSWER,
        )
    except subprocess.TimeoutExpired:
        raise UnansweredError(f"the SuperLink did not answer within {ANSWER:g} s") from None
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        answer = {"error-message": done.stderr or done.stdout}
    if not answer.get("success"):
        said = str(answer.get("error-message") or "no reason given").strip()
        raise UnansweredError(f"flwr {arguments[0]}: {one_line(said.rpartition(chr(10) * 2)[2])}")
    return answer  # type: ignore[no-any-return]


def _environment() -> dict[str, str]:
    return {**ENVIRONMENT, **os.environ, "PYTHONUNBUFFERED": "1"}
