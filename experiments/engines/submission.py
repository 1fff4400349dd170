"""What a SuperLink is sent so that it runs an experiment: the app, and the run config."""

import contextlib
import json
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from fedmetanas.experiments.console import say
from fedmetanas.experiments.entry import RECEIVED
from fedmetanas.experiments.results import on_superlink, run_folder
from fedmetanas.experiments.results.on_superlink import OnSuperLink
from fedmetanas.experiments.settings import Settings

from . import flower_program
from .flower_app import make_app

STAYS = ("root", "cache")  # of the settings of the data: paths, which mean something here alone


def without_paths(settings: Settings) -> Settings:
    """Return settings without the paths of this machine, after saying that they stay here."""
    defaults = Settings().data
    for name in STAYS:
        if getattr(settings.data, name) != getattr(defaults, name):
            say(f"data.{name}: not sent; each machine has its own", stream=sys.stderr)
    data = replace(settings.data, **{name: getattr(defaults, name) for name in STAYS})
    return replace(settings, data=data)


def submit(folder: Path, settings: Settings, run: OnSuperLink, changed: Sequence[str] = ()) -> None:
    """Send an app and a run config; note in the folder which run that is.

    Parameters
    ----------
    folder : Path
        The results folder here.
    settings : Settings
        Without paths of this machine.
    run : OnSuperLink
        What is known of the run, before it has a number.
    changed : sequence of str
        Names of sites whose data may have changed.

    Raises
    ------
    UnansweredError
        If the SuperLink does not answer, or refuses.
    KeyboardInterrupt
        After Ctrl-C, when the run is submitted and noted.
    """
    run_config = {
        "settings": settings.to_yaml(),
        "name": run.name,
        "resume": run.goes_on,
        "accept-changed": ",".join(changed),
    }
    on_superlink.write(folder, run)
    with _undisturbed(), tempfile.TemporaryDirectory(prefix="fedmetanas-") as made:
        app, config = Path(made, "fedmetanas"), Path(made, "run-config.toml")
        app.mkdir()
        make_app(app)
        # What JSON calls a text or a truth value is one of TOML.
        values = {key: json.dumps(value, ensure_ascii=False) for key, value in run_config.items()}
        lines = [f"{key} = {value}\n" for key, value in values.items()]
        config.write_text("".join(lines), encoding="utf-8")
        run_id = flower_program.submit(app, run.superlink, config)
        on_superlink.write(folder, replace(run, run_id=run_id))


def withdraw(folder: Path) -> None:
    """Take back what was noted of a run that has not begun: its folder can be used again."""
    for name in (on_superlink.RUN, run_folder.SETTINGS):
        (folder / name).unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # of somebody else, too
        folder.rmdir()


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Let Ctrl-C, and what does the same, wait: a run is submitted and known, or neither."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asked: list[int] = []
    previous = signal.signal(signal.SIGINT, lambda number, frame: asked.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
    if asked and (RECEIVED or previous is not signal.SIG_IGN):
        raise KeyboardInterrupt
