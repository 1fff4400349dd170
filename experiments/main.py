"""The command line: ``fedmetanas run`` and ``fedmetanas evaluate``."""

import argparse
import sys
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors

from search_space.genotype import Genotype, GenotypeError, load_weights
from search_space.prediction import evaluate
from strategies.registry import StrategyError, make_strategy

from . import results
from .datasets import DataError
from .engines import ENGINES
from .experiment import open_experiment
from .settings import SettingsError, experiments, from_yaml, load

USER_ERRORS = (SettingsError, DataError, StrategyError, GenotypeError)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return 0 if all was done, 1 if it failed, 2 for bad input."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.command(options))
    except USER_ERRORS as error:
        print(f"fedmetanas: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nfedmetanas: stopped", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fedmetanas",
        description="Find a network, with its weights, for images that stay with their owners.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="run an experiment")
    run.add_argument(
        "experiment", help="a YAML file, or one of " + ", ".join(experiments()), metavar="EXPERIMENT"
    )
    run.add_argument(
        "overrides", nargs="*", metavar="key=value", help="settings, such as rounds=10 search.nodes=3"
    )
    run.add_argument("--engine", choices=sorted(ENGINES), default="ray", help="default: ray")
    run.add_argument("--out", default="", metavar="DIR", help="default: results/<experiment>/<time>")
    run.set_defaults(command=_run)

    test = commands.add_parser("evaluate", help="test the network that a run has left")
    test.add_argument("folder", type=Path, metavar="DIR", help="the results folder of a run")
    test.set_defaults(command=_evaluate)
    return parser


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
    folder: Path = options.folder
    texts = {}
    for name in (results.SETTINGS, results.GENOTYPE, results.WEIGHTS):
        try:
            texts[name] = (folder / name).read_bytes()
        except OSError as error:
            raise SettingsError(f"cannot read {folder / name}: {error.strerror}") from None
    try:
        settings = from_yaml(texts[results.SETTINGS].decode(), source=str(folder / results.SETTINGS))
        genotype = Genotype.from_json(texts[results.GENOTYPE].decode())
        weights = load_safetensors(texts[results.WEIGHTS])
        experiment = open_experiment(settings)
        network = genotype.network()
        load_weights(network, weights)
    except (GenotypeError, SafetensorError, UnicodeDecodeError) as error:
        raise GenotypeError(f"{folder}: {error}") from None
    network.to(experiment.device)
    loss, accuracy = evaluate(network, experiment.batches(experiment.dataset.test))
    print(f"test accuracy {accuracy:.6f}  loss {loss:.6f}")
    return 0
