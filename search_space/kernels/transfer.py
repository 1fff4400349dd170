"""Copies between the host and where a network computes."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .joining import join, take_apart


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor of the host to a device; the host does not wait until a GPU has it."""
    if device.type == "cuda":
        tensor = tensor.pin_memory()  # or it would wait
    return tensor.to(device, non_blocking=True)


def all_to_device(tensors: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """Copy tensors of the host, of one type, to a device; no copies where that is the host."""
    if device.type == "cpu":
        return list(tensors)
    return take_apart(to_device(join(tensors), device), tensors)


def all_to_host(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Copy tensors of a device, of one type, to the host; no copies where they are there."""
    if tensors[0].device.type == "cpu":
        return list(tensors)
    return take_apart(join(tensors).cpu(), tensors)
