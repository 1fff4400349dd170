"""Networks drawn from the architecture parameters: each with the probability that they give it."""

import torch

from .alphas import Alphas, Mask, Noise, Topology
from .pruning import final_cut


def sample_network(
    alphas: Alphas,
    topology: Topology,
    generator: torch.Generator,
    weight_free_limit: int | None = None,
) -> Mask:
    """Draw a pair for every node with probability softmax(beta), for its edges operations.

    Their probability is softmax(alpha) among all but ``none``: with Gumbel noise added, the
    greatest logit is a draw from the softmax (Maddison et al., 2017,
    https://arxiv.org/abs/1611.00712, section 2).

    Parameters
    ----------
    alphas : Alphas
        Logits.
    topology : Topology
        Edges and pairs of a cell.
    generator : torch.Generator
        Source of the noise.
    weight_free_limit : int, optional
        As that of :func:`fedmetanas.search_space.pruning.soft_prune`.

    Returns
    -------
    Mask
        One pair a node and one operation an edge in use.
    """
    noise = Noise.draw(topology, generator, torch.float64)
    values = zip(alphas.tensors(), noise.tensors(), strict=True)
    perturbed = Alphas(*(logits + gumbel for logits, gumbel in values))
    return final_cut(perturbed, Mask.full(topology), topology, weight_free_limit)
