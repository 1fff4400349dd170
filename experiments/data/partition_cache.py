"""Partitions, kept on disk: the library that makes them takes seconds to import in every worker."""

import hashlib
import os
import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
import numpy.typing as npt
import safetensors.numpy

from fedmetanas.experiments.files import digest, read_arrays

from .cache import PRIVATE_FILE, PRIVATE_FOLDER, cache_folder, unwritable
from .partitions import Indices, Plan, partition


def open_partition(labels: npt.NDArray[np.int64], plan: Plan, cache: str) -> tuple[Indices, ...]:
    """Return the partition of some labels from the cache, making it first if the cache lacks it.

    Parameters
    ----------
    labels : np.ndarray
        int64, shape (n,).
    plan : Plan
        How to spread them.
    cache : str
        Folder of the cache, see :func:`fedmetanas.experiments.data.cache.open_dataset`.

    Returns
    -------
    tuple of np.ndarray
        See :func:`fedmetanas.experiments.data.partitions.partition`.

    Raises
    ------
    DataError
        If there is no such partition, or the cache folder cannot be written.
    """
    facts = f"{plan} {version('flwr-datasets')} {version('numpy')}\0".encode()
    name = hashlib.sha256(facts + labels.tobytes()).hexdigest()[:16]
    path = cache_folder(cache) / f"partition-{name}.safetensors"
    owners = _read(path)
    if owners is None:
        owners = _owners(partition(labels, plan), len(labels))
        _write(path, owners)
    return tuple(np.flatnonzero(owners == client) for client in range(plan.partitions))


def _owners(parts: tuple[Indices, ...], count: int) -> Indices:
    """Return for every image its owner."""
    owners = np.empty(count, dtype=np.int64)
    for client, part in enumerate(parts):
        owners[part] = client
    return owners


def _read(path: Path) -> Indices | None:
    """Read who owns which image; None if the file is missing or is not exactly what was written."""
    try:
        arrays, header = read_arrays(path)
    except (OSError, ValueError):
        return None
    sound = header.get("digest") == digest(path.name, arrays)
    return arrays["owners"] if sound else None


def _write(path: Path, owners: Indices) -> None:
    """Write for every image its owner, in one step."""
    arrays = {"owners": owners}
    content = safetensors.numpy.save(arrays, {"digest": digest(path.name, arrays)})
    try:
        path.parent.mkdir(PRIVATE_FOLDER, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".building-", dir=path.parent) as building:
            draft = Path(building) / path.name
            draft.touch(PRIVATE_FILE)
            draft.write_bytes(content)
            os.replace(draft, path)
    except OSError as error:
        raise unwritable(path.parent, error) from error
