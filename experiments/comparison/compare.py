"""``fedmetanas compare``: run variants of an experiment over seeds, then write tables and plots.

Every run has a folder of its own, ``<variant>/seed-<n>``. One that is finished is not run again,
one that was interrupted goes on from its checkpoint, and one of other settings is refused. Tables
and plots are written after every run.
"""

import multiprocessing
import os
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fedmetanas.errors import USER_ERRORS, SettingsError
from fedmetanas.experiments.console import one_line, say
from fedmetanas.experiments.entry import start, stopped_code
from fedmetanas.experiments.files import alone_in
from fedmetanas.experiments.report.plots import draw_curves
from fedmetanas.experiments.report.tables import (
    TABLE,
    Row,
    refuse_other_tables,
    to_console,
    write_tables,
)
from fedmetanas.experiments.results import run_folder
from fedmetanas.experiments.results.checkpoint import settings_of
from fedmetanas.experiments.run import check, run
from fedmetanas.experiments.settings import Settings, from_yaml

from .variants import Variant

LAST_WORDS = 30  # seconds in which a run that was stopped ends its own processes


@dataclass(frozen=True)
class Run:
    """One run of a comparison.

    Attributes
    ----------
    variant : Variant
        What is run.
    settings : Settings
        Its settings, with its seed.
    folder : Path
        Its results folder.
    """

    variant: Variant
    settings: Settings
    folder: Path

    @property
    def finished(self) -> bool:
        """Whether it has completed."""
        return run_folder.read_summary(self.folder) is not None


def compare(
    experiment: str,
    overrides: Sequence[str],
    variants: Sequence[Variant],
    seeds: Sequence[int],
    reference: str,
    engine: str,
    out: Path,
) -> int:
    """Run what is not finished yet and write the comparison; return 1 if a run failed, else 0.

    Parameters
    ----------
    experiment : str
        A YAML file or the name of one, see :func:`fedmetanas.experiments.settings.load`.
    overrides : sequence of str
        ``key=value`` for all variants.
    variants : sequence of Variant
        In the order of the table.
    seeds : sequence of int
        Each variant is run with each.
    reference : str
        Name of the variant that the others are set against; if it is not there, none is.
    engine : str
        Out of :data:`fedmetanas.experiments.engines.ENGINES`.
    out : Path
        Folder of the comparison; it may hold an earlier part of the same one.

    Raises
    ------
    SettingsError, DataError, StrategyError
        If something is wrong with any run; none has started then.
    """
    runs = [
        Run(
            variant,
            variant.of(experiment, overrides, seed),
            out.absolute() / variant.name / f"seed-{seed}",
        )
        for variant in variants
        for seed in seeds
    ]
    for planned in runs:
        _refuse_other_settings(planned)
        check(planned.settings, engine)
    _make_folder(out)
    refuse_other_tables(out)
    with alone_in(out, "--out"):
        rows = _write(runs, reference, out)
        for number, planned in enumerate(runs, start=1):
            name = f"{planned.variant.name}, seed {planned.settings.seed} ({number} of {len(runs)})"
            if planned.finished:
                say(f"{name}: finished before")
                continue
            say(f"{name}:")
            if not _completes(planned, engine):
                say(f"fedmetanas: {name} failed", stream=sys.stderr)
            rows = _write(runs, reference, out)
        say("", *to_console(rows), f"all columns: {out.absolute() / TABLE}.md")
    say(f"comparison: {out.absolute()}")
    return 0 if all(planned.finished for planned in runs) else 1


def _write(runs: Sequence[Run], reference: str, out: Path) -> list[Row]:
    """Write tables and plots of what has finished; return the rows."""
    folders: dict[str, dict[int, Path]] = {}
    for one in runs:
        folders.setdefault(one.variant.name, {})[one.settings.seed] = one.folder
    about = {one.variant.name: one.variant.about for one in runs}
    set_against = Row(reference, "", folders[reference]) if reference in folders else None
    rows = [Row(name, about[name], folders[name], set_against) for name in folders]
    draw_curves(rows, out)
    write_tables(rows, out)
    return rows


def _refuse_other_settings(planned: Run) -> None:
    """Raise if the folder holds results of other settings, a damaged summary, or something else."""
    if not run_folder.is_begun(planned.folder):
        return
    path = planned.folder / run_folder.SETTINGS
    try:
        found, _ = settings_of(planned.folder)
    except SettingsError:
        if path.exists():
            raise
        raise SettingsError(f"--out: {planned.folder} is not the folder of a run") from None
    if found != planned.settings:
        raise SettingsError(f"--out: {path} has other settings than now; name a new folder")
    run_folder.read_summary(planned.folder)  # raises if it is damaged


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(f"--out: cannot write to {out}: {error.strerror}") from None


def _completes(planned: Run, engine: str) -> bool:
    """Run in a process of its own, so that none can harm another; return whether it completed."""
    words = (
        "fedmetanas.experiments.comparison.compare",
        "run_alone",
        planned.settings.to_yaml(),
        engine,
    )
    process = multiprocessing.get_context("spawn").Process(
        target=start, args=(*words, str(planned.folder))
    )
    process.start()
    try:
        process.join()
    except KeyboardInterrupt:
        process.join(LAST_WORDS)  # the terminal, or what has ended this one, has told it, too
        raise KeyboardInterrupt("stopped; the same command goes on") from None
    finally:
        process.kill()
    return process.exitcode == 0 and planned.finished


def run_alone(settings: str, engine: str, out: str) -> int:
    """Be the process of a run, and end with that of the comparison; return its exit code."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        return run(from_yaml(settings), engine, out, resume=run_folder.is_begun(Path(out)))
    except USER_ERRORS as error:
        say(f"fedmetanas: {one_line(error)}", stream=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return stopped_code()
    finally:
        say()


def _end_with_parent() -> None:
    """End this process when its parent does: nobody would wait for it, and it holds its folder."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
