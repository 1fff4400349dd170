"""Copies from the host to where a network computes."""

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor of the host to a device; the host does not wait until a GPU has it."""
    if device.type == "cuda":
        tensor = tensor.pin_memory()  # or it would wait
    return tensor.to(device, non_blocking=True)
