"""The ServerApp: open the experiment, make the strategy, run the loop."""

from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from experiments import checkpoint
from experiments.experiment import experiment_of
from experiments.results import make_folder
from strategies import wire
from strategies.registry import make_strategy
from strategies.state import restore

from .loop import SearchState, search
from .progress import Progress
from .record import Record

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the experiment that the run config names; see :mod:`experiments.settings`."""
    experiment = experiment_of(context.run_config)
    settings = experiment.settings
    chosen = settings.strategy
    strategy = make_strategy(chosen.name, chosen.options, experiment.plan)
    out = str(context.run_config.get("out", ""))
    earlier = None
    if context.run_config.get("resume", False):
        folder = Path(out).absolute()
        saved, notes = checkpoint.resumable(folder, settings)
        for note in notes:
            print(note, flush=True)
        if saved is not None:
            restore(strategy, saved.strategy)
            earlier = SearchState(saved.round, wire.to_record(saved.arrays), saved.totals)
    else:
        folder = make_folder(out, settings)
    with Progress(folder, settings, experiment.topology) as progress:
        record = Record(folder, settings, strategy, earlier.round if earlier else 0)
        search(grid, strategy, experiment, [record, progress], earlier)
