"""How large a network is: parameters, and multiply-accumulate operations for one image."""

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from fedmetanas.search_space.kernels.pointwise import Product

from .alphas import Mask
from .genotype import Genotype
from .supernet import NetworkShape, Weights, alive_names, build_supernet


def count_parameters(weights: Weights) -> int:
    """Return the number of weights."""
    return sum(tensor.numel() for tensor in weights.values())


def count_alive_parameters(shape: NetworkShape, mask: Mask) -> int:
    """Return the number of weights that a mask leaves alive."""
    sizes = _sizes(shape)
    alive = mask.alive(shape.topology)
    return sum(sizes[name] for name in alive_names(shape, list(sizes), alive))


@lru_cache(maxsize=1)
def _sizes(shape: NetworkShape) -> dict[str, int]:
    """Return the number of entries of every weight of the supernet."""
    return {name: p.numel() for name, p in build_supernet(shape).named_parameters()}


def count_macs(genotype: Genotype, size: tuple[int, int]) -> int:
    """Return the MACs of convolutions and of the classifier for one image of `size` (H, W).

    Every weight of a convolution counts once for each pixel of its result, however it is computed.
    """
    # Not on the meta device: PyTorch would start its compiler there, which takes a second and
    # leaves a folder among the temporary files.
    network = genotype.network().one_by_one()
    image = torch.zeros(1, genotype.shape.in_channels, *size)
    total = 0

    def count(module: nn.Module, _: Any, result: Tensor | Product) -> None:
        nonlocal total
        total += result.shape[2:].numel() * module.get_parameter("weight").numel()

    for module in network.modules():
        if "weight" in dict(module.named_parameters(recurse=False)):
            module.register_forward_hook(count)
    with torch.no_grad():
        network(image)
    return total
