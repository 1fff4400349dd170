"""``fedmetanas draw``: draw the cells that a run has found."""

import argparse

from fedmetanas.experiments.console import say
from fedmetanas.experiments.files import expanded
from fedmetanas.experiments.report.drawing import draw_cells
from fedmetanas.experiments.results import run_folder


def main(options: argparse.Namespace) -> int:
    """Draw the cells into the results folder."""
    folder = expanded(options.folder, "draw")
    path = folder / "cells.png"
    draw_cells(run_folder.read(folder).genotype, path)
    say(str(path))
    return 0
