"""``fedmetanas run``: run an experiment, or go on with a run."""

import argparse

from fedmetanas.errors import SettingsError
from fedmetanas.experiments.entry import importing
from fedmetanas.experiments.settings import check_overrides, experiments, from_yaml, load


def main(options: argparse.Namespace) -> int:
    """Run one experiment, or go on with a run: its experiment need not be named again."""
    named, overrides = options.experiment, options.overrides
    if options.resume is not None and named is not None and "=" in named:
        named, overrides = None, [named, *overrides]
    if named is not None:
        settings = load(named, overrides)
    elif options.resume is None:
        raise SettingsError(f"name a YAML file, or one of {', '.join(experiments())}")
    else:
        check_overrides(overrides)

    with importing():
        from fedmetanas.experiments.files import expanded
        from fedmetanas.experiments.results.checkpoint import settings_of
        from fedmetanas.experiments.run import run

    if options.resume is None:
        return run(settings, options.engine, options.out)
    folder = expanded(options.resume, "--resume")
    if named is None:
        settings = from_yaml(settings_of(folder)[0].to_yaml(), overrides)
    return run(settings, options.engine, str(folder), resume=True)
