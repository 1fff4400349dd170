"""``fedmetanas evaluate``: test the network that a run has left."""

import argparse
from pathlib import Path

from fedmetanas.errors import SettingsError
from fedmetanas.experiments.console import say
from fedmetanas.experiments.data.registry import Images
from fedmetanas.experiments.experiment import Experiment, open_experiment
from fedmetanas.experiments.files import expanded
from fedmetanas.experiments.results import run_folder
from fedmetanas.search_space.prediction import evaluate


def main(options: argparse.Namespace) -> int:
    """Load the network from disk and print its accuracy on the test set."""
    folder = expanded(options.folder, "evaluate")
    found = run_folder.read(folder)
    experiment = open_experiment(found.settings)
    wanted, network = experiment.shape, found.genotype.shape
    if (wanted.in_channels, wanted.classes) != (network.in_channels, network.classes):
        raise SettingsError(
            f"{folder / run_folder.SETTINGS}: {found.settings.data.dataset} has "
            f"{wanted.in_channels} channels and {wanted.classes} classes, the network in "
            f"{run_folder.GENOTYPE} {network.in_channels} and {network.classes}; set data.dataset "
            "and data.root to what it was trained on"
        )
    found.network.to(experiment.device)
    tests = [experiment.test] if experiment.test else _of_sites(experiment)
    measured = [evaluate(found.network, experiment.batches(test)) for test in tests]
    counts = [len(test.labels) for test in tests]
    loss, accuracy = (
        sum(numbers[part] * count for numbers, count in zip(measured, counts, strict=True))
        / sum(counts)
        for part in (0, 1)
    )
    say(f"test accuracy {accuracy:.6f}  loss {loss:.6f}")
    return 0


def _of_sites(experiment: Experiment) -> list[Images]:
    """Return the test images of the sites that train, in a simulation of them.

    Raises
    ------
    SettingsError
        If they are not here.
    """
    settings = experiment.settings
    if not any((Path(settings.data.root) / name).exists() for name in settings.sites):
        raise SettingsError(
            "the images of this network are at its sites: each can evaluate what it keeps in its "
            f"own folder of results (there are no folders {', '.join(settings.sites)} in "
            f"data.root, {settings.data.root})"
        )
    return [experiment.client(number).test for number in range(settings.clients)]
