"""One run of an experiment, from settings to results."""

import sys

from fedmetanas.errors import RunError, SettingsError
from fedmetanas.experiments.engines.ray import check_temporary_folder
from fedmetanas.experiments.files import expanded
from fedmetanas.experiments.results import on_superlink, run_folder
from fedmetanas.experiments.results.checkpoint import resumable

from .console import say
from .engines import ENGINES
from .experiment import Experiment, open_experiment
from .rehearsal import rehearse
from .settings import Settings
from .surroundings import process_left_as_found
from .trial import try_strategy


def check(settings: Settings, engine: str) -> Experiment:
    """Check everything a person can get wrong, before anything starts; return the experiment.

    Raises
    ------
    SettingsError, DataError, StrategyError
        If the settings do not fit the data, the machine, the engine or the strategy.
    """
    if engine == "inline" and settings.engine.min_nodes > 1:
        raise SettingsError(
            f"engine.min_nodes: the inline engine is one node; found {settings.engine.min_nodes}"
        )
    if engine == "ray":
        check_temporary_folder()
    experiment = open_experiment(settings)
    rehearse(experiment)
    try_strategy(experiment)
    return experiment


def run(
    settings: Settings, engine: str, out: str, resume: bool = False, accept_changed: str = ""
) -> int:
    """Check the settings and run the experiment; return 0 if it completed.

    It returns 1 if it did not, and 2 if that was for want of a place to write. It may be called in
    any program and any thread: what it changes in the process is put back.

    Parameters
    ----------
    settings : Settings
        Of the experiment.
    engine : str
        Out of :data:`fedmetanas.experiments.engines.ENGINES`.
    out : str
        The results folder; empty means ``results/<experiment>/<time>``.
    resume : bool
        Go on with the run in that folder, from its newest sound checkpoint.
    accept_changed : str
        Names, with commas between them, of sites whose images may be others than when it began.

    Raises
    ------
    SettingsError, DataError, StrategyError
        As :func:`check`, or if there are results in the folder.
    CheckpointError
        If no checkpoint of the run is sound.
    KeyboardInterrupt
        If the person stops it; the message is how to go on.
    """
    with process_left_as_found():
        return _run(settings, engine, out, resume, accept_changed)


def _run(settings: Settings, engine: str, out: str, resume: bool, accept_changed: str) -> int:
    if resume:
        on_superlink.refuse(expanded(out))
    experiment = check(settings, engine)
    if resume:
        folder = expanded(out).absolute()
        resumable(folder, experiment)
    else:
        folder = run_folder.make_folder(out, settings)
    run_config = {
        "settings": settings.to_yaml(),
        "out": str(folder),
        "resume": resume,
        "accept-changed": accept_changed,
    }
    code = RunError.exit_code
    try:
        ENGINES[engine](settings, run_config)
    except RunError as error:
        say(f"fedmetanas: {error}", stream=sys.stderr)
        code = error.exit_code
    except KeyboardInterrupt:
        raise KeyboardInterrupt(run_folder.stopped(folder)) from None
    if run_folder.read_summary(folder) is None:
        say(
            f"fedmetanas: the run did not complete; {run_folder.go_on_with(folder)}",
            stream=sys.stderr,
        )
        return code
    return 0
