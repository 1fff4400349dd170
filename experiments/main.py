"""The command line: ``fedmetanas run``, ``evaluate``, ``draw`` and ``bench``."""

import argparse
import importlib
import sys
from pathlib import Path

from search_space.genotype import GenotypeError
from search_space.prediction import evaluate
from strategies.registry import StrategyError, make_strategy

from . import results
from .datasets import DataError
from .drawing import draw_cells
from .engines import ENGINES
from .experiment import open_experiment
from .settings import SettingsError, experiments, load

BENCH_CASES = ("step", "episode", "round", "memory")
USER_ERRORS = (SettingsError, DataError, StrategyError, GenotypeError)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return 0 if all was done, 1 if it failed, 2 for bad input."""
    options = _parse(arguments)
    try:
        return int(options.command(options))
    except USER_ERRORS as error:
        print(f"fedmetanas: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nfedmetanas: stopped", file=sys.stderr)
        return 130


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    """Parse the command line; ``key=value`` may stand before and behind options."""
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    if options.command is _run and all("=" in word and word[0] != "-" for word in rest):
        options.overrides += rest
    elif rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    return options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fedmetanas",
        description="Find a network, with its weights, for images that stay with their owners.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="run an experiment")
    names = ", ".join(experiments())
    run.add_argument("experiment", metavar="EXPERIMENT", help=f"a YAML file, or one of {names}")
    run.add_argument(
        "overrides", nargs="*", metavar="key=value", help="settings, such as search.nodes=3"
    )
    run.add_argument("--engine", choices=sorted(ENGINES), default="ray", help="default: ray")
    run.add_argument("--out", default="", metavar="DIR", help="default: results/EXPERIMENT/TIME")
    run.set_defaults(command=_run)

    test = commands.add_parser("evaluate", help="test the network that a run has left")
    test.add_argument("folder", type=Path, metavar="DIR", help="the results folder of a run")
    test.set_defaults(command=_evaluate)

    draw = commands.add_parser("draw", help="draw the cells that a run has found")
    draw.add_argument("folder", type=Path, metavar="DIR", help="the results folder of a run")
    draw.set_defaults(command=_draw)

    bench = commands.add_parser("bench", help="compare the fast code with a plain reference")
    bench.add_argument(
        "cases",
        nargs="*",
        choices=BENCH_CASES,
        metavar="CASE",
        help=f"out of {', '.join(BENCH_CASES)}; default: all",
    )
    bench.add_argument("--batch-size", type=_count, default=64, metavar="N", help="default: 64")
    bench.add_argument("--repeats", type=_count, default=3, metavar="N", help="default: 3")
    bench.add_argument("--json", action="store_true", help="print JSON instead of a table")
    bench.set_defaults(command=_bench)
    return parser


def _count(text: str) -> int:
    """Read a whole number of 1 or more."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number, at least 1; found {text!r}")
    return int(text)


def _run(options: argparse.Namespace) -> int:
    """Check everything a person can get wrong, then start the engine."""
    settings = load(options.experiment, options.overrides)
    experiment = open_experiment(settings)
    make_strategy(settings.strategy.name, settings.strategy.options, experiment.plan)
    folder = results.make_folder(options.out, settings)
    run_config = {"settings": settings.to_yaml(), "out": str(folder)}
    ENGINES[options.engine](settings, run_config)
    if results.read_summary(folder) is None:
        print(f"fedmetanas: the run did not complete; see {folder}", file=sys.stderr)
        return 1
    return 0


def _evaluate(options: argparse.Namespace) -> int:
    """Load the network from disk and print its accuracy on the test set."""
    found = results.read(options.folder)
    experiment = open_experiment(found.settings)
    found.network.to(experiment.device)
    loss, accuracy = evaluate(found.network, experiment.batches(experiment.dataset.test))
    print(f"test accuracy {accuracy:.6f}  loss {loss:.6f}")
    return 0


def _draw(options: argparse.Namespace) -> int:
    """Draw the cells into the results folder."""
    path = options.folder / "cells.png"
    draw_cells(results.read(options.folder).genotype, path)
    print(path)
    return 0


def _bench(options: argparse.Namespace) -> int:
    """Run benchmarks, which stand above all else and so are started by name, as the apps are."""
    bench = importlib.import_module("benchmarks.main").bench
    bench(options.cases, options.batch_size, options.repeats, options.json)
    return 0
