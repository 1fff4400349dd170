"""``fedmetanas bench``: compare the fast code with a plain reference."""

import argparse
import importlib

from fedmetanas.experiments.entry import importing
from fedmetanas.experiments.experiment import check_device


def main(options: argparse.Namespace) -> int:
    """Run benchmarks, which stand above all else and so are started by name, as the apps are."""
    check_device("--device", options.device)
    with importing():
        bench = importlib.import_module("fedmetanas.benchmarks.main").bench
    bench(options.cases, options.batch_size, options.repeats, options.device, options.json)
    return 0
