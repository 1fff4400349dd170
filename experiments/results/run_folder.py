"""The results folder of a run: the names of its files, making one, writing and reading one."""

import json
import shlex
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import torch

from fedmetanas.errors import GenotypeError, SettingsError
from fedmetanas.experiments.files import digest, expanded, read_arrays, write_file
from fedmetanas.experiments.settings import Settings, from_yaml, read_text
from fedmetanas.search_space.genotype import Genotype, load_weights
from fedmetanas.search_space.supernet import Network, Weights

from . import on_superlink

SETTINGS = "settings.yaml"
METRICS = "metrics.jsonl"
GENOTYPE = "genotype.json"
WEIGHTS = "weights.safetensors"
SUMMARY = "summary.json"
SUMMARY_TEXTS = ("name", "strategy", "left_out", "tested_on", "sites", "worst_site")
CHECKPOINTS = "checkpoints"  # a folder, there until the run has completed
AGAIN = "the network there is as it was; remove {} to run it again"  # of a run that has completed


def make_folder(out: str, settings: Settings) -> Path:
    """Make the results folder of a new run and return its absolute path.

    Parameters
    ----------
    out : str
        Its path; empty means ``results/<experiment>/<time>``.
    settings : Settings
        For the experiment's name.

    Raises
    ------
    SettingsError
        If it cannot be made or is not empty: earlier results are never written over.
    """
    try:
        if out:
            folder = expanded(out).absolute()
            folder.mkdir(parents=True, exist_ok=True)
        else:
            folder = _timed_folder(Path("results").absolute() / settings.name)
        if not is_unused(folder):
            raise SettingsError(f"out: {folder} is not empty; name a new folder")
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise SettingsError(f"out: cannot write to {error.filename}: {error.strerror}") from None
    return folder


def _timed_folder(parent: Path) -> Path:
    """Make a folder named by the time; a second one within a second gets a number."""
    stamp = time.strftime("%Y-%m-%d-%H%M%S")
    for attempt in range(1, 1000):
        folder = parent / (stamp if attempt == 1 else f"{stamp}-{attempt}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        return folder
    raise SettingsError(f"out: cannot find a free name in {parent}")


def go_on_with(folder: Path) -> str:
    """Return words that name the command which goes on with the run in a folder."""
    engine = " --engine superlink" if (folder / on_superlink.RUN).exists() else ""
    return f"go on with: fedmetanas run --resume {shlex.quote(str(folder))}{engine}"


def stopped(folder: Path) -> str:
    """Return what a person is told who has stopped the run in a folder."""
    return f"stopped; {go_on_with(folder)}" if is_begun(folder) else "stopped before it began"


@dataclass(frozen=True)
class Found:
    """What a completed run has left.

    Attributes
    ----------
    settings : Settings
        The run's settings.
    genotype : Genotype
        The architecture.
    network : Network
        The network with its weights, on the CPU.
    """

    settings: Settings
    genotype: Genotype
    network: Network


def read(folder: Path) -> Found:
    """Read settings, genotype and weights of a completed run from its folder.

    Raises
    ------
    SettingsError, GenotypeError
        If the run has not finished, a file is missing or damaged, or the weights are not those
        of the genotype.
    """
    settings = read_settings(folder)
    if not any((folder / name).exists() for name in (GENOTYPE, SUMMARY)):
        raise SettingsError(f"{folder}: this run has not finished; {go_on_with(folder)}")
    path = folder / GENOTYPE
    try:
        text = path.read_text(encoding="utf-8")
        genotype = Genotype.from_json(text)
        path = folder / WEIGHTS
        arrays, header = read_arrays(path)
        if header.get("digest") != digest(text, arrays):
            raise GenotypeError("its digest is not that of these weights and of the genotype")
        network = genotype.network()
        load_weights(network, {key: torch.from_numpy(array) for key, array in arrays.items()})
    except OSError as error:
        raise SettingsError(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        raise GenotypeError(f"{path}: {error}") from None
    return Found(settings, genotype, network)


def write_network(folder: Path, genotype: Genotype, weights: Weights) -> None:
    """Write the network that a run has found; the weights carry a digest of both.

    Raises
    ------
    UnwritableError
        If it cannot be written.
    """
    text = genotype.to_json()
    # In another order than C's, safetensors would mix them up.
    arrays = {name: np.array(tensor.cpu().numpy(), order="C") for name, tensor in weights.items()}
    write_file(folder / GENOTYPE, text.encode())
    header = {"digest": digest(text, arrays)}
    write_file(folder / WEIGHTS, safetensors.numpy.save(arrays, header))


def read_settings(folder: Path) -> Settings:
    """Read the settings of a run from its folder.

    Raises
    ------
    SettingsError
        If they are missing or damaged.
    """
    path = folder / SETTINGS
    return from_yaml(read_text(path), source=str(path))


def is_unused(path: Path) -> bool:
    """Return whether a path is a folder in which a run has left nothing but half its settings."""
    return path.is_dir() and {entry.name for entry in path.iterdir()} <= {f"{SETTINGS}.part"}


def is_begun(path: Path) -> bool:
    """Return whether there is something, a run or not, that a new run must not write over."""
    return path.exists() and not is_unused(path)


def read_summary(folder: Path) -> dict[str, Any] | None:
    """Return the summary of a completed run, None if it has not completed.

    Raises
    ------
    SettingsError
        If it is damaged.
    """
    path = folder / SUMMARY
    if not path.is_file():
        return None
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise SettingsError(f"{path} is damaged: {error}; {AGAIN.format(folder)}") from None
    if not _is_summary(summary):
        words = "expected other keys or values"
        raise SettingsError(f"{path} is damaged: {words}; {AGAIN.format(folder)}")
    return summary  # type: ignore[no-any-return]


def _is_summary(tree: Any) -> bool:
    """Return whether a tree has what is read of every summary, and numbers in its places."""
    if not isinstance(tree, dict) or not {"test_accuracy", "rounds"} <= tree.keys():
        return False
    values = [value for key, value in tree.items() if key not in SUMMARY_TEXTS]
    values += [inner for value in values if isinstance(value, dict) for inner in value.values()]
    spent = tree.get("algorithm_seconds")
    return (
        isinstance(spent, dict)
        and "total" in spent
        and all(type(value) in (int, float) for value in values if not isinstance(value, dict))
    )


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Return the rounds of a run, one line of its metrics each.

    Raises
    ------
    SettingsError
        If the metrics are missing or damaged.
    """
    path = folder / METRICS
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except OSError as error:
        raise SettingsError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise SettingsError(f"{path} is damaged: {error}; {AGAIN.format(folder)}") from None
    return lines
