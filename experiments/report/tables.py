"""The tables of a comparison: mean and standard deviation over seeds.

CSV, JSON and Markdown have all columns, the table on the console those that matter most.

The seconds are those of the algorithm: of clients, server and transport. Evaluation is left out for
all variants alike, because how often it is done is not theirs to choose.

One variant is the reference, and two columns set each run against the reference's run of the same
seed: after which share of its total time the run was as accurate as it is at its end, and how much
more accurate the run was when that time was over. A run that had ended by then counts with its
last accuracy.
"""

import csv
import io
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from fedmetanas.errors import SettingsError
from fedmetanas.experiments.files import json_text, write_file
from fedmetanas.experiments.results import run_folder
from fedmetanas.experiments.results.curves import accuracy_at, read_curve, seconds_to

TABLE = "table"  # and .csv, .json, .md
BEGINNINGS = {"csv": b"variant,", "json": b"[", "md": b"| variant |"}  # of these files


@dataclass(frozen=True)
class Column:
    """A column of the tables.

    Attributes
    ----------
    name : str
        In CSV and JSON.
    title : str
        In Markdown.
    path : str
        Where the value is in ``summary.json`` (or in ``against``, see :class:`Row`), a part's
        behind a dot.
    digits : int
        Behind the decimal point in Markdown.
    unit : float
        What the value is divided by.
    """

    name: str
    title: str
    path: str
    digits: int = 4
    unit: float = 1.0

    def value(self, summary: Mapping[str, Any]) -> float | None:
        """Return the value of a run; None where there is none, as of clients that are not there."""
        found: Any = summary
        for key in self.path.split("."):
            found = found.get(key) if isinstance(found, Mapping) else None
        return None if found is None else found / self.unit


COLUMNS = (
    Column("test_accuracy", "test accuracy", "test_accuracy"),
    *(
        Column(
            f"{group}_{when}_{part}",
            f"{what}, {words}, {part.replace('_', ' ')}",
            f"{group}_accuracy_{when}.{part}",
        )
        for group, words in (("client", "clients"), ("held_out", "held-out clients"))
        for when, what in (("before", "accuracy before adaptation"), ("after", "adapted accuracy"))
        for part in ("mean", "worst_tenth")
    ),
    Column("seconds_search", "s search", "algorithm_seconds.search", 1),
    Column("seconds_training", "s (re)training", "algorithm_seconds.training", 1),
    Column("seconds_total", "s total", "algorithm_seconds.total", 1),
    Column("mb_down", "MB down", "bytes_down", 1, 1e6),
    Column("mb_up", "MB up", "bytes_up", 1, 1e6),
    Column("parameters", "parameters", "parameters", 0),
    Column("macs", "MACs", "macs", 0),
    Column("pruning_gap", "pruning gap", "pruning_gap"),
    Column("time_to_reference", "time to reference's accuracy / its time", "against.time", 2),
    Column("ahead_of_reference", "accuracy less reference's, equal time", "against.accuracy"),
)


#: Columns of the table on the console, with the two lines of their titles.
SHOWN = {
    "test_accuracy": ("test", "accuracy"),
    "client_after_mean": ("adapted", "accuracy"),
    "seconds_total": ("", "seconds"),
    "parameters": ("", "parameters"),
}
WIDTH = 80  # characters of a console
CAPTION = "mean±deviation over seeds; adapted accuracy: of clients, on images of their own"


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation over seeds; 0 for a single one."""

    mean: float
    std: float

    @staticmethod
    def of(values: Sequence[float]) -> "Spread":
        """Return those of some values, at least one."""
        return Spread(statistics.fmean(values), statistics.stdev(values) if values[1:] else 0.0)


@dataclass(frozen=True)
class Row:
    """A variant in the comparison.

    Attributes
    ----------
    name, about : str
        Of the variant.
    folders : dict of int to Path
        The results folder of every seed.
    reference : Row or None
        What it is set against.
    """

    name: str
    about: str
    folders: Mapping[int, Path]
    reference: "Row | None" = None

    @cached_property
    def summaries(self) -> dict[int, dict[str, Any]]:
        """The summaries of the runs that completed, by seed, with ``against`` in each."""
        read = {seed: run_folder.read_summary(folder) for seed, folder in self.folders.items()}
        known = {seed: summary for seed, summary in read.items() if summary is not None}
        return {seed: {**known[seed], "against": self._against(seed)} for seed in known}

    def _against(self, seed: int) -> dict[str, float | None]:
        """Set a run against the reference's of the same seed."""
        if self.reference is None or seed not in self.reference.folders:
            return {}
        reference = run_folder.read_summary(self.reference.folders[seed])
        if reference is None:
            return {}
        curve = read_curve(self.folders[seed])
        final, total = reference["test_accuracy"], reference["algorithm_seconds"]["total"]
        reached, then = seconds_to(curve, final), accuracy_at(curve, total)
        return {
            "time": None if reached is None else reached / total,
            "accuracy": None if then is None else then - final,
        }

    @property
    def missing(self) -> list[int]:
        """The seeds of the runs that have not completed: not yet, or they failed."""
        return [seed for seed in self.folders if seed not in self.summaries]

    def spread(self, column: Column) -> Spread | None:
        """Return mean and deviation of a column; None where no run has a value."""
        values = [column.value(summary) for summary in self.summaries.values()]
        known = [value for value in values if value is not None]
        return Spread.of(known) if known else None


def write_tables(rows: Sequence[Row], folder: Path) -> None:
    """Write ``table.csv``, ``table.json`` and ``table.md``.

    Raises
    ------
    UnwritableError
        If one cannot be written; what was there before is still there.
    """
    texts = {"csv": to_csv(rows), "json": to_json(rows), "md": to_markdown(rows)}
    for ending, text in texts.items():
        write_file(folder / f"{TABLE}.{ending}", text.encode())


def refuse_other_tables(folder: Path) -> None:
    """Raise if a file where a table goes is not one of a comparison.

    Raises
    ------
    SettingsError
        If one is not, or cannot be read.
    """
    for ending, beginning in BEGINNINGS.items():
        path = folder / f"{TABLE}.{ending}"
        if not path.exists():
            continue
        try:
            found = b""
            if path.is_file():
                with path.open("rb") as file:
                    found = file.read(len(beginning))
        except OSError as error:
            raise SettingsError(f"--out: cannot read {path}: {error.strerror}") from None
        if found != beginning:
            raise SettingsError(f"--out: {path} is not of a comparison; name another folder")


def to_csv(rows: Sequence[Row]) -> str:
    """Return a line for each variant, a mean and a deviation for each column."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = [f"{c.name}_{part}" for c in COLUMNS for part in ("mean", "std")]
    writer.writerow(["variant", "completed", "missing", *names])
    for row in rows:
        spreads = [row.spread(column) for column in COLUMNS]
        values = [v for s in spreads for v in (("", "") if s is None else (s.mean, s.std))]
        writer.writerow([row.name, len(row.summaries), len(row.missing), *values])
    return text.getvalue()


def to_json(rows: Sequence[Row]) -> str:
    """Return mean and deviation of each variant, and the values of each of its runs."""
    tree = []
    for row in rows:
        spreads = {column.name: row.spread(column) for column in COLUMNS}
        tree.append(
            {
                "variant": row.name,
                "about": row.about,
                "missing_seeds": row.missing,
                "mean": {name: s and s.mean for name, s in spreads.items()},
                "std": {name: s and s.std for name, s in spreads.items()},
                "runs": [
                    {"seed": seed, **{c.name: c.value(summary) for c in COLUMNS}}
                    for seed, summary in row.summaries.items()
                ],
            }
        )
    return json_text(tree, 2) + "\n"


def to_markdown(rows: Sequence[Row]) -> str:
    """Return a table with ``mean ± deviation`` in its cells."""
    lines = [["variant", "runs", *(column.title for column in COLUMNS)]]
    lines.append(["---"] * len(lines[0]))
    for row in rows:
        runs = str(len(row.summaries))
        if row.missing:
            runs += f", missing: seed {', '.join(map(str, row.missing))}"
        lines.append([row.name, runs, *(_cell(row.spread(column), column) for column in COLUMNS)])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cell(spread: Spread | None, column: Column) -> str:
    if spread is None:
        return "-"
    return f"{spread.mean:,.{column.digits}f} ± {spread.std:,.{column.digits}f}"


def to_console(rows: Sequence[Row]) -> list[str]:
    """Return the lines of a table that fits a console; a long name has a line of its own."""
    columns = [column for column in COLUMNS if column.name in SHOWN]
    lines = [("variant", "runs", *(SHOWN[column.name][1] for column in columns))]
    for row in rows:
        runs = str(len(row.folders))
        if row.missing:
            runs = f"{len(row.summaries)} of {runs}"
        cells = [_short(row.spread(column), column, len(row.summaries)) for column in columns]
        lines.append((row.name, runs, *cells))
    _, *widths = (max(map(len, column)) for column in zip(*lines, strict=True))
    left = WIDTH - sum(width + 2 for width in widths)
    first = max((len(name) for name, *_ in lines if len(name) <= left), default=0)
    above = ("", "", *(SHOWN[column.name][0] for column in columns))
    table = []
    for name, *cells in (above, *lines):
        if len(name) > first:
            table.append(name)
            name = ""
        numbers = (f"  {cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
        table.append((name.ljust(first) + "".join(numbers)).rstrip())
    return [*table, CAPTION]


def _short(spread: Spread | None, column: Column, runs: int) -> str:
    """Return a mean and, of several runs, its deviation, in few characters."""
    if spread is None:
        return "-"
    digits = min(column.digits, 3) if spread.mean < 100 else 0
    deviation = f"±{spread.std:,.{digits}f}" if runs > 1 and column.digits else ""
    return f"{spread.mean:,.{digits}f}{deviation}"
