"""The ServerApp: open the experiment, make the strategy, run the loop."""

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from experiments.experiment import experiment_of
from experiments.results import make_folder
from strategies.registry import make_strategy

from .loop import search
from .progress import Progress
from .record import Record

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the experiment that the run config names; see :mod:`experiments.settings`."""
    experiment = experiment_of(context.run_config, {})
    settings = experiment.settings
    chosen = settings.strategy
    strategy = make_strategy(chosen.name, chosen.options, experiment.plan)
    folder = make_folder(str(context.run_config.get("out", "")), settings)
    with Progress(folder, settings, experiment.topology) as progress:
        search(grid, strategy, experiment, [Record(folder, settings), progress])
