"""The record of a run: the files in its results folder."""

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from flwr.serverapp.strategy import Strategy

from fedmetanas.errors import RunError
from fedmetanas.experiments.experiment import Experiment
from fedmetanas.experiments.files import json_text, unwritable, write_file
from fedmetanas.experiments.results import checkpoint
from fedmetanas.experiments.results.checkpoint import Checkpoint
from fedmetanas.experiments.results.run_folder import (
    CHECKPOINTS,
    METRICS,
    SETTINGS,
    SUMMARY,
    write_network,
)
from fedmetanas.strategies import wire
from fedmetanas.strategies.state import StateError, state_of

from .hooks import Hook, RoundResult, SearchResult, SearchState
from .nodes import ClientError


class Record(Hook):
    """Write settings at the start, metrics and checkpoints as rounds end, the network at the end.

    Parameters
    ----------
    folder : Path
        The results folder; empty, or that of the run that goes on.
    experiment : Experiment
        Its settings are written to ``settings.yaml``, resolved.
    strategy : Strategy
        What it remembers is in the checkpoints.
    done : int
        The rounds that the run has behind it; metrics of later ones are cut off.
    digests : callable, optional
        Returns the digest of each site's images, by its name.
    """

    def __init__(
        self,
        folder: Path,
        experiment: Experiment,
        strategy: Strategy,
        done: int = 0,
        digests: Callable[[], Mapping[str, str]] = dict,
    ) -> None:
        self.folder = folder
        self.settings = experiment.settings
        self.data = experiment.dataset.digest if experiment.dataset else ""
        self.digests = digests
        self.strategy = strategy
        self.done = done
        write_file(folder / SETTINGS, self.settings.to_yaml().encode())
        metrics = folder / METRICS
        if metrics.exists():
            lines = metrics.read_bytes().splitlines(keepends=True)
            write_file(metrics, b"".join(lines[:done]))

    def on_round(self, result: RoundResult, state: SearchState) -> None:
        """Append a line to ``metrics.jsonl``; then write a checkpoint, if one is due."""
        self._append(asdict(result))
        self.done = state.round
        due = self.settings.checkpoint
        if due.every and (state.round % due.every == 0 or state.round == self.settings.rounds):
            try:
                remembered = state_of(self.strategy)
            except StateError as error:
                words = "checkpoint.every=0 runs without any"
                raise RunError(f"strategy.name: {error}; {words}") from None
            saved = Checkpoint(
                state.round,
                wire.from_record(state.arrays),
                remembered,
                state.totals,
                self.settings.to_yaml(),
                self.data,
                checkpoint.versions(),
                self.digests(),
            )
            checkpoint.write(self.folder, saved, due.keep)

    def on_failure(self, error: ClientError) -> None:
        """Append a line of the round that ends the run; a run that goes on cuts it off."""
        if self.done < self.settings.rounds:
            left_out = [asdict(left) for left in error.left_out]
            self._append({"round": self.done + 1, "error": str(error), "left_out": left_out})

    def _append(self, line: Mapping[str, Any]) -> None:
        metrics = self.folder / METRICS
        try:
            with metrics.open("a", encoding="utf-8") as file:
                file.write(json_text(line) + "\n")
                file.flush()
                os.fsync(file.fileno())  # a checkpoint must not be there without its line
        except OSError as error:
            raise unwritable(metrics, error) from error

    def on_end(self, result: SearchResult) -> None:
        """Write genotype and weights, and last the summary: where it is, the run is complete."""
        write_network(self.folder, result.genotype, result.weights)
        write_file(self.folder / SUMMARY, (json_text(result.summary, 2) + "\n").encode())
        shutil.rmtree(self.folder / CHECKPOINTS, ignore_errors=True)
