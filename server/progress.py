"""What a person sees of a run: a live bar, or a line a round where there is no terminal."""

from pathlib import Path
from types import TracebackType

from rich import progress as bars
from rich.console import Console
from rich.table import Table

from fedmetanas.experiments.console import say
from fedmetanas.experiments.settings import Settings
from fedmetanas.search_space.alphas import Mask, Topology

from .hooks import Hook, RoundResult, SearchResult, SearchState


class Progress(Hook):
    """Show rounds as they end and, at the end, a short table and where the results lie.

    Parameters
    ----------
    folder : Path
        The results folder, named at the end.
    settings : Settings
        For the number of rounds.
    topology : Topology
        For the number of operations in all.
    """

    def __init__(self, folder: Path, settings: Settings, topology: Topology) -> None:
        self.folder = folder
        self.operations = Mask.full(topology).counts()[0]
        self.console = Console()
        self.bar = bars.Progress(
            bars.TextColumn("[bold]{task.description}"),
            bars.BarColumn(bar_width=24),
            bars.MofNCompleteColumn(),
            bars.TextColumn("{task.fields[state]}"),
            bars.TimeRemainingColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self.rounds = settings.rounds
        self.task = self.bar.add_task(settings.name, total=settings.rounds, state="starting")
        self.test = ""

    def __enter__(self) -> "Progress":
        """Start the live bar."""
        self.bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give the terminal back, whatever happened."""
        self.bar.stop()

    def on_round(self, result: RoundResult, state: SearchState) -> None:
        """Show the round's loss, accuracies and living operations."""
        if result.test_accuracy is not None:
            self.test = f"  test {result.test_accuracy:.3f}"
        loss, accuracy = (
            "-" if value is None else f"{value:.3f}"
            for value in (result.train_loss, result.train_accuracy)
        )
        words = (
            f"loss {loss}  accuracy {accuracy}{self.test}  "
            f"operations {result.operations_alive}/{self.operations}"
        )
        self.bar.update(self.task, completed=state.round, state=words)
        if self.bar.disable:
            seconds = result.seconds["total"]
            say(f"round {result.round}/{self.rounds}  {words}  {seconds:.1f} s")

    def on_end(self, result: SearchResult) -> None:
        """Print what was found."""
        self.bar.stop()
        summary = result.summary
        table = Table(title=f"{summary['name']}: the network found", show_header=False)
        before, after = (
            f"{summary[key]['mean']:.4f}" if key in summary else "-"
            for key in ("client_accuracy_before", "client_accuracy_after")
        )
        rows = {
            "test accuracy": f"{summary['test_accuracy']:.4f}",
            "pruning gap": f"{summary['pruning_gap']:.4f}",
            "accuracy before adaptation": before,
            "adapted accuracy": after,
            "parameters": f"{summary['parameters']:,}",
            "MACs an image": f"{summary['macs']:,}",
            "MB down / up": f"{summary['bytes_down'] / 1e6:.1f} / {summary['bytes_up'] / 1e6:.1f}",
            "seconds": f"{summary['seconds']:.1f}",
        }
        for name, value in rows.items():
            table.add_row(name, value)
        with self.console.capture() as drawn:
            self.console.print(table)
        say(f"{drawn.get()}results: {self.folder}")
