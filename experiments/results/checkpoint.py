"""Checkpoints: a run after a round, as one file that is written whole or not at all.

A file ``checkpoints/round-00012.safetensors`` holds all arrays; the rest, plain values, is JSON in
its header, with a digest over everything. Nothing in it is code, and reading it runs none.
"""

import contextlib
import dataclasses
import json
import os
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import safetensors.numpy

from fedmetanas.errors import CheckpointError, SettingsError
from fedmetanas.experiments.experiment import Experiment
from fedmetanas.experiments.files import digest, read_arrays, write_file
from fedmetanas.experiments.settings import Settings, from_yaml
from fedmetanas.strategies.aggregation import AnyArray
from fedmetanas.strategies.state import pack, unpack

from . import run_folder

FORMAT_VERSION = "2"
NAME = re.compile(r"round-[0-9]{5,}\.safetensors")
MAY_CHANGE = ("rounds", "min_replies", "engine", "checkpoint")


@dataclass(frozen=True)
class Checkpoint:
    """All that the rest of a run depends on.

    Clients are not in it: they keep nothing, and draw by seed, round and partition.

    Attributes
    ----------
    round : int
        The last round that is done.
    arrays : dict of str to array
        The global model, see :mod:`fedmetanas.strategies.wire`.
    strategy : dict
        What the strategy remembers, see :mod:`fedmetanas.strategies.state`.
    totals : dict of str to float
        Bytes and seconds so far.
    settings : str
        YAML.
    data : str
        The digest of the dataset; empty where each site has its own.
    versions : dict of str to str
        Of Python and of the packages that compute.
    sites : dict of str to str
        The digest of each site's images, by its name.
    """

    round: int
    arrays: Mapping[str, AnyArray]
    strategy: Mapping[str, Any]
    totals: Mapping[str, float]
    settings: str
    data: str
    versions: Mapping[str, str]
    sites: Mapping[str, str] = field(default_factory=dict)


def versions() -> dict[str, str]:
    """Return the versions that a checkpoint names."""
    packages = ("fedmetanas", "flwr", "flwr-datasets", "torch", "numpy", "scikit-learn")
    return {"python": platform.python_version(), **{name: _version(name) for name in packages}}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # as is ours where its folder, or Flower's copy of it, is run
        return "not installed"


def write(folder: Path, checkpoint: Checkpoint, keep: int) -> None:
    """Write a checkpoint into a results folder; remove all but the last `keep`.

    Raises
    ------
    UnwritableError
        If it cannot be written; those before are still there.
    """
    arrays: dict[str, AnyArray] = {}
    content = json.dumps(pack(vars(checkpoint), arrays), allow_nan=False)
    header = {"format": FORMAT_VERSION, "content": content, "digest": digest(content, arrays)}
    path = folder / run_folder.CHECKPOINTS / _name(checkpoint.round)
    write_file(path, safetensors.numpy.save(arrays, header))
    files = _files(folder)
    place = files.index(path)  # those before it are newer, and were damaged when the run went on
    for other in files[:place] + files[place + keep :]:
        with contextlib.suppress(OSError):  # gone, or of somebody else
            other.unlink()


def read(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises
    ------
    CheckpointError
        If it is not exactly what was written.
    """
    try:
        arrays, header = read_arrays(path)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from None
    if header.get("format", FORMAT_VERSION) != FORMAT_VERSION:
        raise CheckpointError(f"{path} has the format {header['format']!r}, not {FORMAT_VERSION}")
    content = header.get("content", "")
    if header.get("digest") != digest(content, arrays):
        raise CheckpointError(f"{path} is damaged: its digest is another")
    found = Checkpoint(**unpack(json.loads(content), arrays))
    if path.name != _name(found.round):
        raise CheckpointError(f"{path} is not of the round in its name, but of {found.round}")
    return found


def settings_of(folder: Path) -> tuple[Settings, list[str]]:
    """Return the settings of a run, from its newest sound checkpoint if its own file is lost.

    Returns
    -------
    settings, notes
        A note says that it is lost.

    Raises
    ------
    SettingsError
        What is wrong with the file, if no checkpoint is sound.
    """
    try:
        return run_folder.read_settings(folder), []
    except SettingsError as error:
        for path in _files(folder):
            with contextlib.suppress(CheckpointError):
                found = from_yaml(read(path).settings, source=str(path))
                lost = f"{folder / run_folder.SETTINGS} is lost ({error})"
                return found, [f"{lost}; its settings are taken from {path}"]
        raise


def resumable(folder: Path, experiment: Experiment) -> tuple[Checkpoint | None, list[str]]:
    """Return the newest sound checkpoint of a run, and what a person should know of it.

    Parameters
    ----------
    folder : Path
        The results folder.
    experiment : Experiment
        That with which the run is to go on.

    Returns
    -------
    checkpoint, notes
        None if the run was stopped before its first. A note says so, or names a newer one that is
        damaged, or a version that is another now, so that the bits may be.

    Raises
    ------
    CheckpointError
        If there are checkpoints and none is sound, or the metrics up to there are not.
    SettingsError
        If there is no run in the folder, it is of other settings or data, or has completed.
    """
    settings = experiment.settings
    path = folder / run_folder.SETTINGS
    before, notes = settings_of(folder)
    refuse_other_settings(before, settings, path)
    if run_folder.read_summary(folder) is not None:
        raise SettingsError(f"resume: the run in {folder} has completed; start a new one")
    for path in _files(folder):
        try:
            checkpoint = read(path)
        except CheckpointError as error:
            notes.append(str(error))
            continue
        saved = from_yaml(checkpoint.settings, source=str(path))
        refuse_other_settings(saved, settings, path)
        if settings.rounds < checkpoint.round:
            raise SettingsError(
                f"rounds: {checkpoint.round} are done already; "
                f"expected at least {checkpoint.round}; found {settings.rounds}"
            )
        if experiment.dataset and checkpoint.data != experiment.dataset.digest:
            raise SettingsError(f"data: {path} was written with other images, labels or classes")
        _check_metrics(folder, checkpoint.round)
        now = versions()
        other = [
            f"{path} was written with {name} {was}; now it is {now.get(name)}"
            for name, was in checkpoint.versions.items()
            if now.get(name) != was
        ]
        return checkpoint, notes + other
    if notes:
        raise CheckpointError(f"no checkpoint is sound: {notes[0]}; start a new run")
    if (folder / run_folder.WEIGHTS).exists():
        raise SettingsError(
            f"resume: {folder} holds a network but no checkpoint; remove it, or start a new run"
        )
    return None, [f"{folder} holds no checkpoint: the run starts with its first round"]


def _check_metrics(folder: Path, done: int) -> None:
    """Raise unless there is a line for each of the rounds that a run has behind it."""
    path = folder / run_folder.METRICS
    try:
        lines = path.read_bytes().splitlines()[:done]
        rounds = [json.loads(line)["round"] for line in lines]
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}; start a new run") from None
    except (ValueError, LookupError, TypeError, RecursionError):
        rounds = []
    if rounds != list(range(1, done + 1)):
        raise CheckpointError(
            f"{path} has lost lines of the first {done} rounds, or holds others; start a new run"
        )


def refuse_other_settings(saved: Settings, wanted: Settings, path: Path) -> None:
    """Raise unless two settings differ only in what may change when a run goes on.

    Raises
    ------
    SettingsError
        With the settings that differ, as they were saved and as they are wanted.
    """
    before, now = _flat(dataclasses.asdict(saved)), _flat(dataclasses.asdict(wanted))
    other = [
        f"{key} was {before.get(key)!r}, now {now.get(key)!r}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key) and key.partition(".")[0] not in MAY_CHANGE
    ]
    if other:
        raise SettingsError(f"{path} has other settings: {'; '.join(other)}")


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the leaves by dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        inner = (
            _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
        )
        flat |= inner
    return flat


def _files(folder: Path) -> list[Path]:
    """Return the checkpoints of a run, the newest first.

    Raises
    ------
    SettingsError
        If they cannot be listed.
    """
    try:
        names = os.listdir(folder / run_folder.CHECKPOINTS)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise SettingsError(f"cannot read {error.filename}: {error.strerror}") from None
    ours = [name for name in names if NAME.fullmatch(name)]
    ours.sort(key=lambda name: (len(name), name), reverse=True)
    return [folder / run_folder.CHECKPOINTS / name for name in ours]


def _name(number: int) -> str:
    """Return the name of the file of a round."""
    return f"round-{number:05}.safetensors"
