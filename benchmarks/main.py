"""The command ``fedmetanas bench``: run cases, print a table."""

import logging
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict

import torch
from rich.console import Console
from rich.table import Table

from fedmetanas.experiments.console import say
from fedmetanas.experiments.files import json_text

from .cases import CASES
from .measure import Comparison, convolution_peak


def bench(
    cases: Sequence[str], batch_size: int, repeats: int, device_type: str, as_json: bool
) -> None:
    """Run some cases, on a CPU on one thread, and print what they took.

    Parameters
    ----------
    cases : sequence of str
        Out of :data:`fedmetanas.benchmarks.cases.CASES`; none: all of them.
    batch_size : int
        Images in a batch of the full supernet.
    repeats : int
        Calls of each, in turns, of which the median counts; small nets are called ten times more.
    device_type : {"cpu", "cuda"}
        Where to compute.
    as_json : bool
        Print JSON instead of a table.
    """
    torch.set_num_threads(1)
    logging.getLogger("flwr").setLevel(logging.ERROR)
    device = torch.device(device_type)
    peak = convolution_peak(device)
    rows = [row for name in cases or CASES for row in CASES[name](batch_size, repeats, device)]
    if as_json:
        machine = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
        if device_type == "cuda":
            machine += f", {torch.cuda.get_device_name()}"
        table = [{**asdict(row), "ratio": row.ratio} for row in rows]
        facts = {"machine": machine, "torch": torch.__version__, "peak_gflops": peak}
        say(json_text({**facts, "rows": table}, indent=2))
    else:
        console = Console(width=80)
        with console.capture() as written:
            console.print(_table(rows, _where(device), peak))
        say(written.get().rstrip("\n"))


def _where(device: torch.device) -> str:
    return "one thread" if device.type == "cpu" else torch.cuda.get_device_name()


def _table(rows: list[Comparison], where: str, peak: float) -> Table:
    table = Table(title=f"{where}; a dense convolution reaches {peak:.0f} GFLOP/s here")
    for column in ("case", "plain", "ours", "spread", "ratio", "GFLOP/s", "of peak"):
        table.add_column(column, justify="left" if column == "case" else "right")
    for row in rows:
        speed = row.flop / row.ours / 1e9
        table.add_row(
            row.case,
            f"{row.plain:.4g} {row.unit}",
            f"{row.ours:.4g} {row.unit}",
            f"±{row.spread:.0%}" if row.spread else "",
            f"{row.ratio:.2f}",
            f"{speed:.1f}" if row.flop else "",
            f"{speed / peak:.0%}" if row.flop else "",
        )
    return table
