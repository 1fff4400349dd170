"""``fedmetanas list``: say what there is, one line each."""

import argparse
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from fedmetanas.errors import SettingsError
from fedmetanas.experiments.comparison.variants import read_variants
from fedmetanas.experiments.console import say
from fedmetanas.experiments.data.registry import DATASETS
from fedmetanas.experiments.entry import importing
from fedmetanas.experiments.settings import FOLDER, experiments

RUNS = ("experiment", "rounds", "test accuracy", "state", "folder")


def main(options: argparse.Namespace) -> int:
    """Print a list."""
    if options.what == "runs":
        return _runs(options.folder)
    if options.folder is not None:
        raise SettingsError(
            f"list {options.what}: found {str(options.folder)!r}; only runs have a folder"
        )
    say(*aligned(FOUND[options.what]().items()))
    return 0


def aligned(rows: Iterable[Iterable[str]]) -> list[str]:
    """Return rows of cells as lines, the cells of a column one below the other."""
    table = [[*row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in table
    ]


def _experiments() -> dict[str, str]:
    """Return the first line of every file."""
    texts = {name: (FOLDER / f"{name}.yaml").read_text(encoding="utf-8") for name in experiments()}
    return {name: text.partition("\n")[0].lstrip("# ") for name, text in texts.items()}


def _strategies() -> dict[str, str]:
    with importing():
        from fedmetanas.strategies.registry import STRATEGIES
    return _documented(STRATEGIES)


def _variants() -> dict[str, str]:
    return {name: variant.about for name, variant in read_variants().items()}


def _operations() -> dict[str, str]:
    with importing():
        from fedmetanas.search_space.operations import OPERATIONS
    return _documented(OPERATIONS)


def _datasets() -> dict[str, str]:
    return _documented(DATASETS)


def _documented(registered: Mapping[str, Any]) -> dict[str, str]:
    """Return the first line of what is said of each, by name."""
    return {name: (found.__doc__ or "").partition("\n")[0] for name, found in registered.items()}


FOUND: dict[str, Callable[[], dict[str, str]]] = {
    "experiments": _experiments,
    "strategies": _strategies,
    "variants": _variants,
    "operations": _operations,
    "datasets": _datasets,
}


def _runs(folder: Path | None) -> int:
    """Print the runs in a folder, wherever in it."""
    if folder is not None and not folder.is_dir():
        raise SettingsError(f"list runs: {folder} is not a folder")
    folder = folder or Path("results")
    with importing():
        from fedmetanas.experiments.results.run_folder import SETTINGS

    found = []
    for place, inner, files in os.walk(folder):
        inner.sort()
        if SETTINGS in files:
            found.append(_run(Path(place)))
    say(*(aligned([RUNS, *found]) if found else [f"no runs in {folder}"]))
    return 0


def _run(folder: Path) -> tuple[str, ...]:
    """Return what is said of a run."""
    from fedmetanas.experiments.results import run_folder

    try:
        settings, summary = run_folder.read_settings(folder), run_folder.read_summary(folder)
        begun = (folder / run_folder.METRICS).exists()
        rounds = len(run_folder.read_metrics(folder)) if begun else 0
    except SettingsError:
        return "?", "?", "-", "damaged", str(folder)
    accuracy = f"{summary['test_accuracy']:.4f}" if summary else "-"
    state = "finished" if summary else "not finished"
    return settings.name, f"{rounds} of {settings.rounds}", accuracy, state, str(folder)
