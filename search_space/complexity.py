"""How large a network is: parameters, and multiply-accumulate operations for one image."""

import torch
from torch.utils.flop_counter import FlopCounterMode

from .genotype import Genotype
from .supernet import Weights


def count_parameters(weights: Weights) -> int:
    """Return the number of weights."""
    return sum(tensor.numel() for tensor in weights.values())


def count_macs(genotype: Genotype, size: tuple[int, int]) -> int:
    """Return the MACs of convolutions and of the classifier for one image of `size` (H, W)."""
    with torch.device("meta"):
        network = genotype.network()
        image = torch.empty(1, genotype.shape.in_channels, *size)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(image)
    return int(counter.get_total_flops()) // 2
