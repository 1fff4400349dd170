"""``fedmetanas run``: run an experiment, or go on with a run."""

import argparse

from fedmetanas.errors import SettingsError
from fedmetanas.experiments.entry import importing
from fedmetanas.experiments.settings import check_overrides, experiments, from_yaml, load

SUPERLINK = "superlink"  # the engine that is on other machines


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
    _check_superlink(options)

    with importing():
        from fedmetanas.experiments.engines import superlink
        from fedmetanas.experiments.files import expanded
        from fedmetanas.experiments.results.checkpoint import settings_of
        from fedmetanas.experiments.run import run

    elsewhere, name, detach = options.engine == SUPERLINK, options.superlink, options.detach
    if options.resume is None:
        if elsewhere:
            return superlink.start(settings, name, options.out, detach)
        return run(settings, options.engine, options.out)
    folder = expanded(options.resume, "--resume")
    if named is None:
        settings = from_yaml(settings_of(folder)[0].to_yaml(), overrides)
    if elsewhere:
        changed = [name for name in options.accept_changed.split(",") if name]
        return superlink.resume(settings, folder, name, changed, detach)
    return run(settings, options.engine, str(folder), True, options.accept_changed)


def _check_superlink(options: argparse.Namespace) -> None:
    """Check what is said of a SuperLink.

    Raises
    ------
    SettingsError
        If something is missing, or is meant for a SuperLink and there is none.
    """
    if options.accept_changed and options.resume is None:
        raise SettingsError("--accept-changed is for a run that goes on: --resume DIR")
    given = {"--superlink": options.superlink, "--detach": options.detach}
    if options.engine != SUPERLINK:
        for option in (option for option, value in given.items() if value):
            raise SettingsError(f"{option} is for --engine {SUPERLINK}")
    elif options.resume is not None:
        return
    elif not options.superlink:
        raise SettingsError(
            "--superlink: name a connection of Flower's configuration, [superlink.NAME] in "
            "$FLWR_HOME/config.toml"
        )
