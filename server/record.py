"""The record of a run: the files in its results folder."""

import json
import os
from dataclasses import asdict
from pathlib import Path

from safetensors.torch import save

from experiments.results import GENOTYPE, METRICS, SETTINGS, SUMMARY, WEIGHTS
from experiments.settings import Settings

from .loop import RoundResult, SearchResult


class Record:
    """Write settings at the start, a line of metrics after every round, the network at the end.

    Parameters
    ----------
    folder : Path
        The results folder; it exists and is empty.
    settings : Settings
        Written to ``settings.yaml``, resolved.
    """

    def __init__(self, folder: Path, settings: Settings) -> None:
        self.folder = folder
        _write(folder / SETTINGS, settings.to_yaml().encode())

    def on_round(self, result: RoundResult) -> None:
        """Append a line to ``metrics.jsonl``."""
        line = json.dumps(asdict(result)) + "\n"
        with (self.folder / METRICS).open("a", encoding="utf-8") as file:
            file.write(line)

    def on_end(self, result: SearchResult) -> None:
        """Write genotype and weights, and last the summary: where it is, the run is complete."""
        _write(self.folder / GENOTYPE, result.genotype.to_json().encode())
        contiguous = {name: tensor.contiguous() for name, tensor in result.weights.items()}
        _write(self.folder / WEIGHTS, save(contiguous))
        _write(self.folder / SUMMARY, (json.dumps(result.summary, indent=2) + "\n").encode())


def _write(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    draft = path.with_name(path.name + ".part")
    draft.write_bytes(content)
    os.replace(draft, path)
