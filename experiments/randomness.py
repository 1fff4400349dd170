"""Randomness as a function of (seed, round, partition, purpose); there is no global state."""

import random
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def rng(
    purpose: str, seed: int, server_round: int = 0, partition_id: int = 0
) -> np.random.Generator:
    """Return NumPy's generator for one purpose, in one round, on one client.

    Parameters
    ----------
    purpose : str
        What it is for, such as ``"batches"``; different purposes are independent.
    seed : int
        The experiment's seed, >= 0.
    server_round, partition_id : int
        Round and client, >= 0.
    """
    words = [seed, server_round, partition_id, zlib.crc32(purpose.encode())]
    return np.random.default_rng(np.random.SeedSequence(words))


def torch_generator(
    purpose: str, seed: int, server_round: int = 0, partition_id: int = 0
) -> torch.Generator:
    """Return PyTorch's CPU generator for one purpose, round and client; see :func:`rng`."""
    state = rng(purpose, seed, server_round, partition_id).integers(2**63)
    return torch.Generator().manual_seed(int(state))


@contextmanager
def seeded_random(purpose: str, seed: int, server_round: int) -> Iterator[None]:
    """Seed what a strategy may draw from: Python, NumPy and PyTorch as a whole; then set it back.

    Flower's strategies draw clients with Python's ``random`` and noise with NumPy's.

    Parameters
    ----------
    purpose, seed, server_round
        As those of :func:`rng`.
    """
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    source = rng(purpose, seed, server_round)
    random.seed(int(source.integers(2**63)))
    np.random.seed(source.integers(2**32, size=4))  # noqa: NPY002
    torch.default_generator.manual_seed(int(source.integers(2**63)))
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002
        torch.set_rng_state(before[2])
