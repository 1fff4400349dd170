"""The command line: ``fedmetanas run``, ``compare``, ``evaluate``, ``draw`` and ``bench``."""

import argparse
import importlib
import sys
from pathlib import Path
from typing import Any

from fedmetanas.errors import USER_ERRORS, SettingsError
from fedmetanas.experiments.comparison.compare import compare
from fedmetanas.experiments.comparison.variants import choose, read_variants
from fedmetanas.experiments.console import one_line, say
from fedmetanas.experiments.engines import ENGINES
from fedmetanas.experiments.entry import stopped_code
from fedmetanas.experiments.experiment import check_device, open_experiment
from fedmetanas.experiments.files import expanded
from fedmetanas.experiments.report.drawing import draw_cells
from fedmetanas.experiments.results import run_folder
from fedmetanas.experiments.results.checkpoint import settings_of
from fedmetanas.experiments.run import run
from fedmetanas.experiments.settings import DEVICES, experiments, from_yaml, load
from fedmetanas.search_space.prediction import evaluate

BENCH_CASES = ("step", "episode", "round", "memory")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return 0 if all was done, 1 if it failed, 2 for bad input."""
    try:
        options = _parse(arguments)
        return int(options.command(options))
    except USER_ERRORS as error:
        say(f"fedmetanas: {one_line(error)}", stream=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        say(f"\nfedmetanas: {one_line(stop) or 'stopped'}", stream=sys.stderr)
        return stopped_code()
    finally:
        say()  # what was printed is written, or nobody is told that it cannot be


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    """Parse the command line; ``key=value`` may stand before and behind options."""
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    if options.command in (_run, _compare) and all("=" in word and word[0] != "-" for word in rest):
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

    one = commands.add_parser("run", help="run an experiment")
    _add_experiment(one, nargs="?")
    place = one.add_mutually_exclusive_group()
    place.add_argument("--out", default="", metavar="DIR", help="default: results/EXPERIMENT/TIME")
    place.add_argument("--resume", type=Path, metavar="DIR", help="go on with the run in DIR")
    one.set_defaults(command=_run)

    many = commands.add_parser("compare", help="run variants of an experiment side by side")
    _add_experiment(many)
    many.add_argument(
        "--strategies",
        default="fedmetanas,fednas,fedavg,perfedavg,random",
        metavar="NAME,...",
        help="names of variants; default: %(default)s",
    )
    many.add_argument("--seeds", default="0,1,2", metavar="N,...", help="default: %(default)s")
    many.add_argument("--variants", type=Path, metavar="FILE", help="variants of your own, YAML")
    many.add_argument(
        "--reference",
        metavar="NAME",
        help="what the others are set against; default: fednas, if it is among them",
    )
    many.add_argument(
        "--out", type=Path, metavar="DIR", help="default: results/EXPERIMENT-comparison"
    )
    many.set_defaults(command=_compare)

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
    bench.add_argument("--device", choices=DEVICES, default="cpu", help="default: cpu")
    bench.add_argument("--json", action="store_true", help="print JSON instead of a table")
    bench.set_defaults(command=_bench)
    return parser


def _add_experiment(command: argparse.ArgumentParser, **options: Any) -> None:
    """Add what says which experiment is run, and where."""
    names = ", ".join(experiments())
    words = f"a YAML file, or one of {names}"
    command.add_argument("experiment", metavar="EXPERIMENT", help=words, **options)
    command.add_argument(
        "overrides", nargs="*", metavar="key=value", help="settings, such as search.nodes=3"
    )
    command.add_argument("--engine", choices=sorted(ENGINES), default="ray", help="default: ray")


def _count(text: str) -> int:
    """Read a whole number of 1 or more."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number, at least 1; found {text!r}")
    return int(text)


def _run(options: argparse.Namespace) -> int:
    """Run one experiment, or go on with a run: its experiment need not be named again."""
    named, overrides = options.experiment, options.overrides
    if options.resume is None:
        if named is None:
            raise SettingsError(f"name a YAML file, or one of {', '.join(experiments())}")
        return run(load(named, overrides), options.engine, options.out)
    folder = expanded(options.resume)
    if named is None or "=" in named:
        overrides = [*([named] if named else []), *overrides]
        settings = from_yaml(settings_of(folder)[0].to_yaml(), overrides)
    else:
        settings = load(named, overrides)
    return run(settings, options.engine, str(folder), resume=True)


def _compare(options: argparse.Namespace) -> int:
    """Run variants of an experiment over seeds."""
    variants = choose(
        options.strategies.split(","), read_variants(options.variants), "--strategies"
    )
    seeds = _seeds(options.seeds)
    if options.reference is not None:
        choose([options.reference], {variant.name: variant for variant in variants}, "--reference")
    if any(override.startswith("seed=") for override in options.overrides):
        raise SettingsError("seed: compare takes --seeds 0,1,2 instead")
    name = load(options.experiment, options.overrides).name
    out = expanded(options.out or f"results/{name}-comparison")
    try:
        return compare(
            options.experiment,
            options.overrides,
            variants,
            seeds,
            options.reference or "fednas",
            options.engine,
            out,
        )
    except OSError as error:  # of its folder
        raise SettingsError(f"--out: cannot write to {out}: {error.strerror}") from None


def _seeds(text: str) -> list[int]:
    """Read whole numbers, each once."""
    words = text.split(",")
    if not all(word.isdecimal() and len(word) < 16 for word in words):
        raise SettingsError(f"--seeds: expected whole numbers such as 0,1,2; found {text!r}")
    seeds = [int(word) for word in words]
    if len(set(seeds)) < len(seeds):
        raise SettingsError(f"--seeds: a seed stands twice in {text!r}")
    return seeds


def _evaluate(options: argparse.Namespace) -> int:
    """Load the network from disk and print its accuracy on the test set."""
    found = run_folder.read(options.folder)
    experiment = open_experiment(found.settings)
    wanted, network = experiment.shape, found.genotype.shape
    if (wanted.in_channels, wanted.classes) != (network.in_channels, network.classes):
        raise SettingsError(
            f"{options.folder / run_folder.SETTINGS}: {found.settings.data.dataset} has "
            f"{wanted.in_channels} channels and {wanted.classes} classes, the network in "
            f"{run_folder.GENOTYPE} {network.in_channels} and {network.classes}; set data.dataset "
            "and data.root to what it was trained on"
        )
    found.network.to(experiment.device)
    loss, accuracy = evaluate(found.network, experiment.batches(experiment.dataset.test))
    say(f"test accuracy {accuracy:.6f}  loss {loss:.6f}")
    return 0


def _draw(options: argparse.Namespace) -> int:
    """Draw the cells into the results folder."""
    path = options.folder / "cells.png"
    draw_cells(run_folder.read(options.folder).genotype, path)
    say(str(path))
    return 0


def _bench(options: argparse.Namespace) -> int:
    """Run benchmarks, which stand above all else and so are started by name, as the apps are."""
    check_device("--device", options.device)
    bench = importlib.import_module("fedmetanas.benchmarks.main").bench
    bench(options.cases, options.batch_size, options.repeats, options.device, options.json)
    return 0
