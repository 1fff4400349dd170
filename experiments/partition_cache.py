"""Partitions, kept on disk: the library that makes them takes seconds to import in every worker."""

import hashlib
import os
import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
import numpy.typing as npt

from .cache import cache_folder, unwritable
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
        Folder of the cache, see :func:`experiments.cache.open_dataset`.

    Returns
    -------
    tuple of np.ndarray
        See :func:`experiments.partitions.partition`.

    Raises
    ------
    DataError
        If there is no such partition, or the cache folder cannot be written.
    """
    facts = f"{plan} {version('flwr-datasets')} {version('numpy')}\0".encode()
    name = hashlib.sha256(facts + labels.tobytes()).hexdigest()[:16]
    path = cache_folder(cache) / f"partition-{name}.npy"
    parts = _read(path, len(labels), plan)
    if parts is None:
        parts = partition(labels, plan)
        _write(path, parts, len(labels))
    return parts


def _read(path: Path, count: int, plan: Plan) -> tuple[Indices, ...] | None:
    """Read who owns which image; None if the file is missing or damaged."""
    try:
        owners = np.load(path, allow_pickle=False)
    except Exception:  # whatever is wrong with the file, the remedy is to make it again
        return None
    if not isinstance(owners, np.ndarray) or owners.dtype != np.int64 or owners.shape != (count,):
        return None
    parts = tuple(np.flatnonzero(owners == client) for client in range(plan.partitions))
    sizes = [len(part) for part in parts]
    return parts if sum(sizes) == count and min(sizes) >= plan.min_client_size else None


def _write(path: Path, parts: tuple[Indices, ...], count: int) -> None:
    """Write for every image its owner, in one step."""
    owners = np.empty(count, dtype=np.int64)
    for client, part in enumerate(parts):
        owners[part] = client
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".building-", dir=path.parent) as building:
            draft = Path(building) / path.name
            np.save(draft, owners, allow_pickle=False)
            os.replace(draft, path)
    except OSError as error:
        raise unwritable(path.parent, error) from error
