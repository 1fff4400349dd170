"""Many small tensors as one: a call takes as long for a few numbers as for thousands."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor


def join(tensors: Iterable[Tensor]) -> Tensor:
    """Return the numbers of some tensors of one type, one after the other."""
    return torch.cat([tensor.flatten() for tensor in tensors])


def take_apart(joined: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """Return views of what was joined, in the shapes of some other tensors."""
    parts = torch.split(joined, [tensor.numel() for tensor in like])
    return [part.view(tensor.shape) for part, tensor in zip(parts, like, strict=True)]
