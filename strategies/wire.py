"""The wire format: which arrays and settings of the round a message carries, by name.

One ArrayRecord a message with the keys ``weights/<name>`` and ``alphas/<name>``, so that any of
Flower's strategies can aggregate it. The weights of pruned operations are not in it, nor, once all
is decided, the alphas. One ConfigRecord with ``server-round`` and, from a strategy that searches,
``tau`` and ``mask/<name>``.
What else it may hold has a default:

================  ============================================================
``learner``       what a client does: ``meta`` (default), ``sgd`` or ``milenas``
``relaxation``    instead of ``search.relaxation``
``phase``         ``search`` (default), or ``training`` of a decided network
``phase-round``   the round within the phase, from 1; default: the server round
``phase-rounds``  how many rounds the phase has; default: all
``support-share`` lambda of ``milenas``; default: 1
``proximal-mu``   mu of FedProx, >= 0, which holds back the weights; default: 0
================  ============================================================

A query asks for the losses of some networks: ``finalists`` says of how many, and
``finalists/<name>`` has their one-hot masks, one after the other; ``losses`` is the reply's metric.

The ConfigRecord of a reply has ``code``, a digest of the code that the client runs, and ``data``,
one of its images.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord
from torch import Tensor

from fedmetanas.search_space.alphas import PER_CELL_NAMES, Alphas, Mask, Topology
from fedmetanas.search_space.kernels.transfer import all_to_host
from fedmetanas.search_space.supernet import NetworkShape, Weights, alive_names

from . import npy
from .aggregation import AnyArray
from .flower import array_record, config_record
from .npy import from_array, to_array

WEIGHTS = "weights/"
ALPHAS = "alphas/"
MASK = "mask/"
FINALISTS = "finalists"
LOSSES = "losses"
CODE = "code"
DATA = "data"
RAISED = 2  # Flower's error code of an app that raised; its reason begins with the digest
PROXIMAL_MU = "proximal-mu"
PARTITION = "partition-id"  # set where a message is addressed, never by a strategy
PARTITIONS = "num-partitions"
HELLO = "query.hello"  # the type of the message that asks a node who it is and what it has
KEEP = "query.keep"  # the type of the message that brings a site the network that was found

#: The four parts of a mask.
MASK_KEYS = tuple(MASK + name for name in PER_CELL_NAMES)

#: The settings that clients know in a message to train or to evaluate, but for :data:`MASK_KEYS`.
CONFIG_KEYS = (
    "server-round",
    PARTITION,
    "tau",
    "learner",
    "relaxation",
    "phase",
    "phase-round",
    "phase-rounds",
    "support-share",
    PROXIMAL_MU,
)

#: Those of them that the server goes by as well, as ``round_config`` of the strategy says them.
SHARED_KEYS = ("tau", "relaxation", "phase", *MASK_KEYS)

#: What clients measure when they train and a strategy may go by: the same in each run.
MEASURES = ("num-examples", "loss", "accuracy")


def to_arrays(weights: Weights, alphas: Alphas) -> dict[str, AnyArray]:
    """Return the NumPy arrays of a message by key; on the CPU they share the tensors' memory."""
    tensors = {WEIGHTS + name: tensor for name, tensor in weights.items()}
    tensors |= {ALPHAS + name: tensor for name, tensor in alphas.items()}
    values = all_to_host([tensor.detach() for tensor in tensors.values()])
    return {key: value.numpy() for key, value in zip(tensors, values, strict=True)}


def from_arrays(arrays: Mapping[str, AnyArray]) -> tuple[Weights, Alphas]:
    """Return weights and alphas, copied, as float32 tensors on the CPU.

    Raises
    ------
    KeyError
        If one of the four arrays of alphas is missing.
    """
    alphas = Alphas(*(_tensor(arrays[ALPHAS + name]) for name in PER_CELL_NAMES))
    return weights_from(arrays), alphas


def weights_from(arrays: Mapping[str, AnyArray]) -> Weights:
    """Return the weights alone, copied, as float32 tensors on the CPU."""
    return {
        key.removeprefix(WEIGHTS): _tensor(array)
        for key, array in arrays.items()
        if key.startswith(WEIGHTS)
    }


def _tensor(array: AnyArray) -> Tensor:
    return torch.from_numpy(np.array(array, dtype=np.float32))


def weights_to(weights: Weights) -> ArrayRecord:
    """Return a record of weights alone."""
    return to_record({WEIGHTS + name: tensor.cpu().numpy() for name, tensor in weights.items()})


def split(keys: Collection[str]) -> tuple[list[str], list[str]]:
    """Return the keys that are not those of alphas, and those that are."""
    weights, alphas = _split(tuple(keys))
    return list(weights), list(alphas)


@lru_cache(maxsize=100)
def _split(keys: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    alphas = tuple(key for key in keys if key.startswith(ALPHAS))
    return tuple(key for key in keys if not key.startswith(ALPHAS)), alphas


def alive_keys(keys: Iterable[str], shape: NetworkShape, mask: Mask) -> list[str]:
    """Return the keys of the alphas and of weights that are alive, in their order."""
    keys = list(keys)
    names = [key.removeprefix(WEIGHTS) for key in split(keys)[0]]
    alive = set(alive_names(shape, names, mask.alive(shape.topology)))
    return [
        key for key in keys if not key.startswith(WEIGHTS) or key.removeprefix(WEIGHTS) in alive
    ]


def to_record(arrays: Mapping[str, AnyArray]) -> ArrayRecord:
    """Return the record of a message."""
    return array_record({key: to_array(array) for key, array in arrays.items()})


def from_record(record: ArrayRecord) -> dict[str, AnyArray]:
    """Return the arrays of a record."""
    return {key: from_array(array) for key, array in record.items()}


def all_numbers(record: ArrayRecord, keys: Iterable[str]) -> AnyArray:
    """Return the numbers of some arrays of a record, at least one, one array after the other."""
    arrays = dict(record.items())
    return npy.all_numbers([arrays[key] for key in keys])


def select(record: ArrayRecord, keys: Iterable[str]) -> ArrayRecord:
    """Return a record of some of the arrays of another, in the order of the keys."""
    arrays = dict(record.items())  # to look up in itself, Flower takes several calls
    return array_record({key: arrays[key] for key in keys})


def round_config(tau: float, mask: Mask) -> dict[str, Any]:
    """Return what a strategy that searches sends along: temperature and mask."""
    return {"tau": tau, **_masks_config([mask], MASK)}


def mask_from_config(config: Mapping[str, Any], topology: Topology) -> Mask:
    """Return the mask of a message; all alive where the strategy sent none.

    Raises
    ------
    ValueError
        If a part of the mask has not the size the topology asks for.
    """
    if MASK + PER_CELL_NAMES[0] not in config:
        return Mask.full(topology)
    return _masks_from_config(config, MASK, 1, topology)[0]


def finalists_config(masks: Sequence[Mask]) -> dict[str, Any]:
    """Return what a query for the losses of some networks sends along."""
    return {FINALISTS: len(masks), **_masks_config(masks, FINALISTS + "/")}


def finalists_from_config(config: Mapping[str, Any], topology: Topology) -> list[Mask]:
    """Return the networks of a query.

    Raises
    ------
    ValueError
        If a part of the masks has not the size the topology asks for.
    """
    return _masks_from_config(config, FINALISTS + "/", config[FINALISTS], topology)


def _masks_config(masks: Sequence[Mask], prefix: str) -> dict[str, Any]:
    """Return what a message says of masks: part by part, one mask after the other."""
    parts = zip(*(mask.tensors() for mask in masks), strict=True)
    return {
        prefix + name: torch.stack(of_all).flatten().tolist()
        for name, of_all in zip(PER_CELL_NAMES, parts, strict=True)
    }


def _masks_from_config(
    config: Mapping[str, Any], prefix: str, count: int, topology: Topology
) -> list[Mask]:
    """Return the masks of :func:`_masks_config`."""
    parts = {}
    for name, tensor in Mask.full(topology).items():
        values, size = config[prefix + name], count * tensor.numel()
        if len(values) != size:
            raise ValueError(f"{prefix}{name}: expected {size} values, not {len(values)}")
        parts[name] = torch.tensor(values, dtype=torch.bool).reshape(count, *tensor.shape)
    return [Mask(**{name: of_all[k] for name, of_all in parts.items()}) for k in range(count)]


def count_bytes(record: ArrayRecord) -> tuple[int, int]:
    """Return the bytes of the weights and of the alphas in a record, as they are serialised."""
    total = sum([len(array.data) for array in record.values()])
    _, others = split(record)
    alphas = sum([len(record[key].data) for key in others])
    return total - alphas, alphas


def with_partition(config: Mapping[str, Any], partition_id: int) -> ConfigRecord:
    """Return a copy of a message's settings that says which client it is for."""
    record = config_record(config)
    record[PARTITION] = partition_id
    return record
