"""Random inputs for tests of the search space and the learners."""

import re
from pathlib import Path

import torch

from fedmetanas.client.parameters import Parameters
from fedmetanas.search_space.alphas import Alphas, Mask, Topology
from fedmetanas.search_space.names import DEFAULT_OPERATIONS
from fedmetanas.search_space.pruning import final_cut, soft_prune
from fedmetanas.search_space.supernet import Network, NetworkShape, build_supernet, initial_weights

EXTEND = (Path(__file__).parents[1] / "docs" / "extend.md").read_text(encoding="utf-8")


def documented_example(name: str) -> str:
    """Return the Python block of docs/extend.md in which `name` stands."""
    blocks = re.findall(r"```python\n(.*?)```", EXTEND, flags=re.DOTALL)
    (found,) = [block for block in blocks if name in block]
    return str(found)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_alphas(topology: Topology, seed: int, scale: float = 1.0) -> Alphas:
    drawn = Alphas.initial(topology, generator(seed))
    return Alphas(*(1e3 * scale * tensor.double() for tensor in drawn.tensors()))


def random_mask(topology: Topology, seed: int) -> Mask:
    """A valid mask in which roughly half has died."""
    alphas = random_alphas(topology, seed)
    pairs = max(len(own) for own in topology.node_pairs)
    return soft_prune(
        alphas,
        Mask.full(topology),
        topology,
        1.0,
        0.7 / len(topology.operations),
        0.7 / pairs,
    )


def one_hot_mask(topology: Topology, seed: int) -> Mask:
    return final_cut(random_alphas(topology, seed), Mask.full(topology), topology)


def make_shape(
    nodes: int = 2,
    layers: int = 3,
    channels: int = 4,
    in_channels: int = 1,
    norm: str = "group",
    operations: tuple[str, ...] = DEFAULT_OPERATIONS,
) -> NetworkShape:
    return NetworkShape(in_channels, 3, channels, layers, Topology(nodes, operations), norm)


def random_parameters(
    shape: NetworkShape, seed: int, dtype: torch.dtype = torch.float64
) -> tuple[Network, Parameters]:
    """A supernet with random weights, its zero biases made non-zero, and random alphas."""
    network = build_supernet(shape)
    source = generator(seed)
    weights = {
        name: (tensor + 0.1 * torch.randn(tensor.shape, generator=source)).to(dtype)
        for name, tensor in initial_weights(network, source).items()
    }
    alphas = random_alphas(shape.topology, seed + 1)
    return network, Parameters(weights, Alphas(*(a.to(dtype) for a in alphas.tensors())))


def random_images(
    shape: NetworkShape,
    seed: int,
    size: tuple[int, int] = (8, 8),
    count: int = 5,
    dtype: torch.dtype = torch.float64,
) -> tuple[torch.Tensor, torch.Tensor]:
    source = generator(seed)
    images = torch.randn(count, shape.in_channels, *size, generator=source).to(dtype)
    return images, torch.randint(shape.classes, (count,), generator=source)
