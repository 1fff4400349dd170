"""The ServerApp: open the experiment, make the strategy, run the loop."""

import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import Strategy

from fedmetanas.errors import CheckpointError
from fedmetanas.experiments.client_data import is_agreed
from fedmetanas.experiments.code_digest import refuse_other_package
from fedmetanas.experiments.console import say
from fedmetanas.experiments.data.summary import what_was_read
from fedmetanas.experiments.experiment import Experiment, experiment_of, open_on_server
from fedmetanas.experiments.files import alone_in, expanded
from fedmetanas.experiments.randomness import seeded_random
from fedmetanas.experiments.rehearsal import rehearse
from fedmetanas.experiments.results import checkpoint, on_superlink
from fedmetanas.experiments.results.checkpoint import Checkpoint
from fedmetanas.experiments.results.run_folder import make_folder
from fedmetanas.experiments.results.site_digests import begun_with, refuse_changed
from fedmetanas.experiments.settings import DataSettings, Settings, from_run_config
from fedmetanas.experiments.sites.agreement import what_they_have
from fedmetanas.strategies import wire
from fedmetanas.strategies.flower import meets_machines
from fedmetanas.strategies.registry import make_strategy
from fedmetanas.strategies.state import StateError, restore

from .delivery import deliver
from .hooks import SearchState
from .loop import search
from .nodes import ClientError, Nodes, simulated_nodes
from .progress import Progress
from .proposal import propose
from .record import Record
from .roster import Roster, read_bound

app = ServerApp()

FLOWERS_SIMULATION = "flwr-simulation"  # the program that `flwr run` starts, with Ray in its folder


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the experiment that the run config names; see :mod:`fedmetanas.experiments.settings`."""
    if Path(sys.argv[0]).name == FLOWERS_SIMULATION:
        refuse_other_package(Path.cwd())
    config = context.run_config
    has_own = meets_machines(grid)
    experiment = _on_server(grid, config) if has_own else experiment_of(config)
    settings = experiment.settings
    chosen = settings.strategy
    with seeded_random("strategy", settings.seed, 0):
        strategy = make_strategy(chosen.name, chosen.options, experiment.plan)
    folder = results_folder(config, settings, has_own)
    with alone_in(folder, "out"):
        saved = _saved(folder, experiment) if config.get("resume") else None
        earlier = _restored(folder, saved, strategy) if saved else None
        accepted = str(config.get("accept-changed", ""))
        nodes = _nodes(grid, experiment, has_own, saved, accepted)
        done = earlier.round if earlier else 0
        record = Record(folder, experiment, strategy, done, nodes.digests)
        with Progress(folder, settings, experiment.topology) as progress:
            try:
                hooks = [record, progress]
                found = search(grid, strategy, experiment, hooks, earlier, nodes)
            except ClientError as error:
                record.on_failure(error)
                raise
        if settings.sites and has_own:
            deliver(grid, nodes, settings, folder.name, found)


def _on_server(grid: Grid, config: Mapping[str, Any]) -> Experiment:
    """Open an experiment where nodes are machines of their own, which have the images.

    Raises
    ------
    SettingsError
        If a setting is wrong, or the experiment does not say on what sites agree.
    """
    settings = from_run_config(config)
    for key in ("root", "cache"):
        if getattr(settings.data, key) != getattr(DataSettings(), key):
            say(f"data.{key} is left out: no path comes over the network", stream=sys.stderr)
    data = replace(settings.data, root=DataSettings().root, cache="", download=False)
    settings = replace(settings, data=data)
    if not is_agreed(settings):
        propose(grid, settings)
    return open_on_server(settings)


def results_folder(config: Mapping[str, Any], settings: Settings, has_own: bool) -> Path:
    """Return the results folder of a run, made if the run is a new one.

    Parameters
    ----------
    config : mapping
        Flower's run config.
    settings : Settings
        For the experiment's name.
    has_own : bool
        Whether nodes are machines of their own. Then the run has a name, the folder of that name
        lies where this machine's environment says, and a path that was sent is not used.

    Raises
    ------
    SettingsError
        If the name is none, or the folder cannot be made or is not empty.
    """
    out = str(config.get("out", ""))
    if has_own:
        if out:
            say("out is left out: no path comes over the network", stream=sys.stderr)
        name = str(config.get("name", "")) or on_superlink.name_of(settings.name)
        out = str(on_superlink.folder_of(name))
    return expanded(out).absolute() if config.get("resume") else make_folder(out, settings)


def _saved(folder: Path, experiment: Experiment) -> Checkpoint | None:
    """Return the checkpoint from which a run goes on."""
    saved, notes = checkpoint.resumable(folder, experiment)
    say(*notes)
    return saved


def _restored(folder: Path, saved: Checkpoint, strategy: Strategy) -> SearchState:
    """Return what a run goes on from, after giving the strategy back what it remembered."""
    try:
        restore(strategy, saved.strategy)
    except StateError as error:
        raise CheckpointError(f"{folder}: {error}, as it did when it was saved") from None
    return SearchState(saved.round, wire.to_record(saved.arrays), saved.totals)


def _nodes(
    grid: Grid, experiment: Experiment, has_own: bool, saved: Checkpoint | None, accepted: str
) -> Nodes:
    """Return the nodes of a run, once those that are needed are there and agree.

    Raises
    ------
    SettingsError
        If some do not, or the images of a site are others than those that the run began with.
    ClientError
        If too few have come in time.
    """
    begun = begun_with(saved, experiment.settings, accepted)
    if has_own:
        bound = read_bound(os.environ.get("FEDMETANAS_NODES", ""))
        roster = Roster(grid, experiment, bound, begun)
        say(*(what_they_have(roster.assemble()) if experiment.dataset is None else []))
        return roster
    say(*_what_is_here(experiment))
    nodes = simulated_nodes(grid, experiment)
    refuse_changed(begun, nodes.digests())
    return nodes


def _what_is_here(experiment: Experiment) -> list[str]:
    """Return lines that say from which images a simulation learns."""
    if experiment.dataset is None:
        return what_they_have(rehearse(experiment))
    return what_was_read(experiment.dataset, [part.size for part in experiment.parts])
