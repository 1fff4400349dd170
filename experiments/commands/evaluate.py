"""``fedmetanas evaluate``: test the network that a run has left."""

import argparse

from fedmetanas.errors import SettingsError
from fedmetanas.experiments.console import say
from fedmetanas.experiments.experiment import open_experiment
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
    loss, accuracy = evaluate(found.network, experiment.batches(experiment.dataset.test))
    say(f"test accuracy {accuracy:.6f}  loss {loss:.6f}")
    return 0
