"""Run an experiment on a SuperLink: submit it, follow it, and bring its results."""

import contextlib
import os
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from fedmetanas.errors import RunError, SettingsError, UserError
from fedmetanas.experiments.console import say
from fedmetanas.experiments.entry import RECEIVED
from fedmetanas.experiments.files import write_file
from fedmetanas.experiments.results import on_superlink, run_folder
from fedmetanas.experiments.results.on_superlink import OnSuperLink
from fedmetanas.experiments.settings import Settings

from . import flower_program
from .flower_program import UnansweredError
from .submission import submit, withdraw, without_paths
from .superlink_log import Log

PAUSE = 2.0  # seconds after which a SuperLink is asked again
PATIENCE = 60.0  # seconds in which a SuperLink that is away may come back
COMPLETED, FAILED, STOPPED = (f"finished:{how}" for how in ("completed", "failed", "stopped"))
LOOPBACK = ("localhost", "127.", "[::1]")


def start(settings: Settings, superlink: str, out: str, detach: bool) -> int:
    """Submit a new run and follow it to its end; return the exit code.

    Parameters
    ----------
    settings : Settings
        Of the experiment. No data are opened here.
    superlink : str
        Name of the connection, as Flower's configuration has it.
    out : str
        The results folder here; empty means ``results/<experiment>/<time>``.
    detach : bool
        Whether to end as soon as it is submitted.

    Raises
    ------
    SettingsError
        If there is no such connection, the SuperLink refuses, or there is something in the folder.
    KeyboardInterrupt
        After Ctrl-C or a signal; the message says whether the run goes on.
    """
    flower_program.address_of(superlink)
    settings = without_paths(settings)
    folder = run_folder.make_folder(out, settings)
    name = on_superlink.name_of(folder.name if out else settings.name)
    write_file(folder / run_folder.SETTINGS, settings.to_yaml().encode())
    with _detached_by_ctrl_c(folder):
        try:
            submit(folder, settings, OnSuperLink(superlink, name, "", goes_on=False))
        except Exception:
            withdraw(folder)
            raise
        return _told(folder) if detach else _followed(folder)


def resume(
    settings: Settings, folder: Path, superlink: str, changed: Sequence[str], detach: bool
) -> int:
    """Submit a run that goes on with that of a folder, and follow it; return the exit code.

    Parameters
    ----------
    settings : Settings
        Of the experiment.
    folder : Path
        The results folder here.
    superlink : str
        Name of the connection; empty means the one that the run had.
    changed : sequence of str
        Names of sites whose data may have changed.
    detach : bool
        Whether to end as soon as it is submitted.

    Raises
    ------
    SettingsError
        As :func:`start`, or if the folder is not that of a run on a SuperLink which has ended
        without results.
    KeyboardInterrupt
        As :func:`start`.
    """
    folder = folder.absolute()
    before = on_superlink.read(folder)
    superlink = superlink or before.superlink
    flower_program.address_of(superlink)
    if run_folder.read_summary(folder) is not None:
        raise SettingsError(f"resume: the run in {folder} has completed; start a new one")
    known = (*settings.sites, *settings.held_out_sites)
    if unknown := sorted(set(changed) - set(known)):
        there = ", ".join(known) or "none"
        raise SettingsError(f"--accept-changed: {unknown[0]!r} is no site; sites are: {there}")
    with contextlib.suppress(UnansweredError):  # the run is unknown, or submitting will tell
        if not _is_over(flower_program.status(before.superlink, before.run_id)[0]):
            raise SettingsError(f"resume: the run in {folder} is at work; {_attach(folder)}")
    with _detached_by_ctrl_c(folder):
        try:
            new = OnSuperLink(superlink, before.name, "", goes_on=True)
            submit(folder, without_paths(settings), new, changed)
        except Exception:
            on_superlink.write(folder, before)
            raise
        return _told(folder) if detach else _followed(folder)


def attach(folder: Path) -> int:
    """Follow the run of a folder to its end; return the exit code, as :func:`start` would.

    Raises
    ------
    SettingsError
        If the folder is not that of a run on a SuperLink.
    KeyboardInterrupt
        As :func:`start`.
    """
    folder = folder.absolute()
    run = on_superlink.read(folder)
    flower_program.address_of(run.superlink)
    if not run.run_id:
        raise SettingsError(
            f"attach: whether the run in {folder} was submitted is not known; see: flwr ls "
            f"{shlex.quote(run.superlink)}"
        )
    with _detached_by_ctrl_c(folder):
        return _followed(folder)


def _told(folder: Path) -> int:
    """Say how the run that was submitted can be followed."""
    say(f"submitted; {_attach(folder)}")
    return 0


def _attach(folder: Path) -> str:
    """Return words that name the command which follows the run of a folder."""
    return f"follow it with: fedmetanas attach {shlex.quote(str(folder))}"


def _followed(folder: Path) -> int:
    """Show what a run says until it ends; bring its results and return the exit code."""
    run = on_superlink.read(folder)
    log = Log(run.name)
    try:
        status, details = _watched(run, log)
    except UnansweredError as error:
        say(f"fedmetanas: {error}; {_attach(folder)}", stream=sys.stderr)
        return RunError.exit_code
    failure = log.say_why(details) if status == FAILED else RunError
    if issubclass(failure, UserError):
        if not run.goes_on:
            withdraw(folder)  # nothing has begun
        return 2
    seen = _brought(folder, run)
    if status == COMPLETED and (run_folder.read_summary(folder) if seen else log.results):
        say(f"results: {folder}" if seen else _where(folder, run, log))
        return 0
    words = "was stopped" if status == STOPPED else "did not complete"
    say(f"fedmetanas: the run {words}; {run_folder.go_on_with(folder)}", stream=sys.stderr)
    return failure.exit_code


def _watched(run: OnSuperLink, log: Log) -> tuple[str, str]:
    """Show what a run says until it has ended; return its status and what is said of it.

    Raises
    ------
    UnansweredError
        If the SuperLink is away for too long, or does not know the run.
    """
    shown, away_since = 0, None
    while True:
        for number, line in enumerate(flower_program.lines(run.superlink, run.run_id)):
            if number >= shown:  # it begins anew each time
                shown = number + 1
                log.take(line)
        try:
            status, details = flower_program.status(run.superlink, run.run_id)
            away_since = None
            if _is_over(status):
                return status, details
        except UnansweredError as error:
            away_since = away_since or time.monotonic()
            if time.monotonic() > away_since + PATIENCE:
                raise
            log.warn(f"{error}; asking again for {PATIENCE:g} s")
        time.sleep(PAUSE)


def _is_over(status: str) -> bool:
    return status.startswith("finished")


def _brought(folder: Path, run: OnSuperLink) -> bool:
    """Copy the results of a run, if they can be seen from here; return whether they can.

    Checkpoints stay where they are. The summary comes last: where it is, all is there.
    """
    there = on_superlink.folder_of(run.name)
    if not os.access(there, os.R_OK | os.X_OK):
        return False
    paths = [path for path in there.rglob("*") if path.is_file()]
    for path in sorted(paths, key=lambda path: path.name == run_folder.SUMMARY):
        inside = path.relative_to(there)
        if inside.parts[0] != run_folder.CHECKPOINTS:
            write_file(folder / inside, path.read_bytes())
    return True


def _where(folder: Path, run: OnSuperLink, log: Log) -> str:
    """Return where the results of a run are, and how to copy them."""
    host = flower_program.address_of(run.superlink).rpartition(":")[0]
    path, target = log.results, shlex.quote(str(folder))
    if host.startswith(LOOPBACK):
        return f"results: {path} at the SuperLink; copy them: cp -r {shlex.quote(path)}/. {target}"
    return (
        f"results: {path} on {host}; copy them: scp -r {shlex.quote(f'{host}:{path}/*')} {target}"
    )


@contextlib.contextmanager
def _detached_by_ctrl_c(folder: Path) -> Iterator[None]:
    """After Ctrl-C or a signal, leave the run alone, or stop it if the person wants this.

    Raises
    ------
    KeyboardInterrupt
        With what has become of the run.
    """
    try:
        yield
    except KeyboardInterrupt:
        if not (folder / on_superlink.RUN).exists():
            raise KeyboardInterrupt("stopped before it began") from None
        run = on_superlink.read(folder)
        if not _is_to_stop():
            raise KeyboardInterrupt(f"detached, the run goes on; {_attach(folder)}") from None
        flower_program.stop(run.superlink, run.run_id)
        raise KeyboardInterrupt(f"stopped; {run_folder.go_on_with(folder)}") from None


def _is_to_stop() -> bool:
    """Ask whether the run is to be stopped, if it was Ctrl-C and there is somebody to ask."""
    if RECEIVED or not (sys.stdin.isatty() and sys.stdout.isatty()):
        return False
    try:
        answer = input("\nStop the run, or detach and let it go on? [stop/DETACH] ")
    except (EOFError, KeyboardInterrupt):
        return False
    return answer.strip().lower() in ("s", "stop")
