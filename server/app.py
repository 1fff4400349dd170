"""The ServerApp: open the experiment, make the strategy, run the loop."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import Strategy

from fedmetanas.errors import CheckpointError
from fedmetanas.experiments.code_digest import refuse_other_package
from fedmetanas.experiments.console import say
from fedmetanas.experiments.experiment import Experiment, experiment_of
from fedmetanas.experiments.files import alone_in, expanded
from fedmetanas.experiments.randomness import seeded_random
from fedmetanas.experiments.results import checkpoint, on_superlink
from fedmetanas.experiments.results.run_folder import make_folder
from fedmetanas.experiments.settings import Settings
from fedmetanas.strategies import wire
from fedmetanas.strategies.registry import make_strategy
from fedmetanas.strategies.state import StateError, restore

from .hooks import SearchState
from .loop import search
from .partition_grid import ClientError
from .progress import Progress
from .record import Record

app = ServerApp()

FLOWERS_SIMULATION = "flwr-simulation"  # the program that `flwr run` starts, with Ray in its folder
FLOWERS_SERVER = "flwr-serverapp"  # the program that a SuperLink starts


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the experiment that the run config names; see :mod:`fedmetanas.experiments.settings`."""
    if Path(sys.argv[0]).name == FLOWERS_SIMULATION:
        refuse_other_package(Path.cwd())
    experiment = experiment_of(context.run_config)
    settings = experiment.settings
    chosen = settings.strategy
    with seeded_random("strategy", settings.seed, 0):
        strategy = make_strategy(chosen.name, chosen.options, experiment.plan)
    goes_on = bool(context.run_config.get("resume", False))
    folder = results_folder(context.run_config, settings)
    with alone_in(folder, "out"):
        earlier = _earlier(folder, experiment, strategy) if goes_on else None
        record = Record(folder, experiment, strategy, earlier.round if earlier else 0)
        with Progress(folder, settings, experiment.topology) as progress:
            try:
                search(grid, strategy, experiment, [record, progress], earlier)
            except ClientError as error:
                record.on_failure(error)
                raise


def results_folder(run_config: Mapping[str, Any], settings: Settings) -> Path:
    """Return the results folder of a run, made if the run is a new one.

    On a SuperLink the run config has a name, and the folder of that name lies where this machine's
    environment says. A path that was sent is not used there.

    Raises
    ------
    SettingsError
        If the name is none, or the folder cannot be made or is not empty.
    """
    out, name = str(run_config.get("out", "")), str(run_config.get("name", ""))
    if on_superlink.RESULTS in os.environ and Path(sys.argv[0]).name == FLOWERS_SERVER:
        name = name or on_superlink.name_of(settings.name)
    if name:
        if out:
            say(f"out: not used; {on_superlink.RESULTS} says where results are on this machine")
        out = str(on_superlink.folder_of(name))
    return expanded(out).absolute() if run_config.get("resume") else make_folder(out, settings)


def _earlier(folder: Path, experiment: Experiment, strategy: Strategy) -> SearchState | None:
    """Return what a run goes on from, after giving the strategy back what it remembered."""
    saved, notes = checkpoint.resumable(folder, experiment)
    say(*notes)
    if saved is None:
        return None
    try:
        restore(strategy, saved.strategy)
    except StateError as error:
        raise CheckpointError(f"{folder}: {error}, as it did when it was saved") from None
    return SearchState(saved.round, wire.to_record(saved.arrays), saved.totals)
