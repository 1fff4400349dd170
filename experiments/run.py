"""One run of an experiment, from settings to results."""

import sys

from strategies.registry import make_strategy

from . import results
from .engines import ENGINES
from .experiment import open_experiment
from .settings import Settings


def check(settings: Settings) -> None:
    """Check everything a person can get wrong, before anything starts.

    Raises
    ------
    SettingsError, DataError, StrategyError
        If the settings do not fit the data, the machine or the strategy.
    """
    experiment = open_experiment(settings)
    make_strategy(settings.strategy.name, settings.strategy.options, experiment.plan)


def run(settings: Settings, engine: str, out: str) -> int:
    """Check the settings and run the experiment; return 0 if it completed, else 1.

    Parameters
    ----------
    settings : Settings
        Of the experiment.
    engine : str
        Out of :data:`experiments.engines.ENGINES`.
    out : str
        The results folder; empty means ``results/<experiment>/<time>``.

    Raises
    ------
    SettingsError, DataError, StrategyError
        As :func:`check`, or if there are results in the folder.
    """
    check(settings)
    folder = results.make_folder(out, settings)
    ENGINES[engine](settings, {"settings": settings.to_yaml(), "out": str(folder)})
    if results.read_summary(folder) is None:
        print(f"fedmetanas: the run did not complete; see {folder}", file=sys.stderr)
        return 1
    return 0
