"""``fedmetanas attach``: follow a run on a SuperLink, from another terminal or once more."""

import argparse

from fedmetanas.experiments.engines import superlink
from fedmetanas.experiments.files import expanded


def main(options: argparse.Namespace) -> int:
    """Follow the run of a folder to its end."""
    return superlink.attach(expanded(options.folder, "attach"))
