"""Copies between the host and where a network computes.

A copy of a few numbers takes as long as one of thousands: what goes together is copied at once.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor of the host to a device; the host does not wait until a GPU has it."""
    if device.type == "cuda":
        tensor = tensor.pin_memory()  # or it would wait
    return tensor.to(device, non_blocking=True)


def all_to_device(tensors: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """Copy tensors of the host, of one type, to a device; no copies where that is the host."""
    if device.type == "cpu":
        return list(tensors)
    return _parts(to_device(_joined(tensors), device), tensors)


def all_to_host(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Copy tensors of a device, of one type, to the host; no copies where they are there."""
    if tensors[0].device.type == "cpu":
        return list(tensors)
    return _parts(_joined(tensors).cpu(), tensors)


def _joined(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors])


def _parts(joined: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """Take tensors that were joined apart, by the shapes of some others."""
    parts = torch.split(joined, [tensor.numel() for tensor in like])
    return [part.view(tensor.shape) for part, tensor in zip(parts, like, strict=True)]
