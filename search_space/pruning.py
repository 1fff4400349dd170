"""Soft pruning: what has become improbable dies during the search, so that nothing is cut later.

After Elsken et al., "Meta-Learning of Neural Architectures for Few-Shot Learning", 2020,
https://arxiv.org/abs/1911.11090: with p = softmax(alpha / tau) over the living operations of an
edge and q = softmax(beta / tau) over the living pairs of a node,

    p_o < operation_threshold  ->  the operation dies
    q_pair < pair_threshold    ->  the pair dies

An edge that no living pair contains dies with all its operations. The most probable operation of
an edge in use, and the most probable pair of a node, never die. But for ``none``: it can weaken an
edge and never be what is left of it, as in DARTS (Liu, Simonyan and Yang, 2019,
https://arxiv.org/abs/1806.09055, section 2.4). Where nothing else is probable any more, it dies.

Weight-free operations (skip, pooling) are good from the first round on, convolutions only when
they have learnt, so that a short search takes too many of the former. They can be limited in each
cell, as in Chen et al., "Progressive DARTS", 2019, https://arxiv.org/abs/1904.12760, section 3.3:
of the edges in use that pruning would leave without a convolution, those that want it least keep
their most probable one instead.
"""

import math

import torch
from torch import Tensor

from .alphas import CELL_TYPES, Alphas, Mask, Topology
from .operations import has_weights
from .relaxation import masked_softmax, pair_probabilities


def soft_prune(
    alphas: Alphas,
    mask: Mask,
    topology: Topology,
    tau: float,
    operation_threshold: float,
    pair_threshold: float,
    weight_free_limit: int | None = None,
) -> Mask:
    """Return the mask after pruning at temperature `tau`; nothing dead comes back to life.

    Parameters
    ----------
    alphas : Alphas
        Logits.
    mask : Mask
        What was alive; on an edge in use something other than ``none``.
    topology : Topology
        Edges and pairs of a cell.
    tau : float
        Temperature, > 0.
    operation_threshold, pair_threshold : float
        Probabilities in [0, 1); 0 prunes nothing.
    weight_free_limit : int, optional
        So many edges of a cell at most are left with weight-free operations only.
    """
    pruned: dict[str, Tensor] = {}
    real = are_real(topology)
    for cell_type in CELL_TYPES:
        op_logits, pair_logits = alphas.cell(cell_type)
        op_alive, pair_alive = mask.cell(cell_type)
        p = masked_softmax(op_logits / tau, op_alive)
        q = pair_probabilities(pair_logits / tau, pair_alive, topology)
        probable = op_alive & (p >= operation_threshold)
        undecided = (probable & real).any(dim=1, keepdim=True)
        ops = probable & (real | undecided) | _strongest(op_logits, op_alive & real)
        pairs = pair_alive & (q >= pair_threshold)
        for own in (list(pairs_of_node) for pairs_of_node in topology.node_pairs):
            pairs[own] |= _strongest(pair_logits[own], pair_alive[own])
        used = op_alive & _edges_in_use(pairs, topology)[:, None]
        if weight_free_limit is not None:
            with_weights = torch.tensor([has_weights(name) for name in topology.operations])
            surplus = _surplus(op_logits, used, ops & used, with_weights, weight_free_limit)
            ops[surplus] = _strongest(op_logits, op_alive & with_weights)[surplus]
        pruned[f"input_{cell_type}"] = pairs
        pruned[f"op_{cell_type}"] = ops & used
    return Mask(**pruned)


def _surplus(
    logits: Tensor, alive: Tensor, pruned: Tensor, with_weights: Tensor, limit: int
) -> Tensor:
    """Return the numbers of the edges that lose their last operation with weights beyond the limit.

    Parameters
    ----------
    logits : Tensor
        (E, O).
    alive, pruned : Tensor
        bool, (E, O), what is alive on the edges in use before and after pruning.
    with_weights : Tensor
        bool, (O,), which operations have weights.
    limit : int
        So many edges may be without, those that are already among them.
    """
    could, can = (alive & with_weights).any(dim=1), (pruned & with_weights).any(dim=1)
    without = int((alive.any(dim=1) & ~could).sum())
    losing = (could & ~can).nonzero().flatten()
    strongest = [
        logits.masked_fill(~(alive & kind), -torch.inf).amax(dim=1)
        for kind in (with_weights, ~with_weights)
    ]
    lead = (strongest[1] - strongest[0])[losing]
    return losing[lead.argsort(stable=True)][: max(0, without + len(losing) - limit)]


def final_cut(
    alphas: Alphas, mask: Mask, topology: Topology, weight_free_limit: int | None = None
) -> Mask:
    """Keep the strongest living pair of every node and the strongest operation of its edges."""
    return soft_prune(alphas, mask, topology, 1.0, 1.0, 1.0, weight_free_limit)


def strongest_inputs_cut(alphas: Alphas, topology: Topology) -> Mask:
    """Keep the two strongest inputs of every node, by the strongest operation of each.

    How a network is derived where input pairs have no logits of their own: Liu, Simonyan and Yang,
    "DARTS", 2019, https://arxiv.org/abs/1806.09055, section 2.4.
    """
    real = are_real(topology)
    cut: dict[str, Tensor] = {}
    for cell_type in CELL_TYPES:
        op_logits = alphas.cell(cell_type)[0]
        strength = op_logits.softmax(dim=1).masked_fill(~real, -1.0).amax(dim=1)
        of_pairs = torch.stack([strength[list(pair)].sort().values for pair in topology.pairs])
        ops = _strongest(op_logits, real.expand_as(op_logits))
        pairs = torch.zeros(len(topology.pairs), dtype=torch.bool)
        for own in topology.node_pairs:
            # The pair of the two strongest: greatest weaker edge, then greatest stronger one.
            best = max(own, key=lambda pair: of_pairs[pair].tolist())
            pairs[best] = True
        cut[f"input_{cell_type}"] = pairs
        cut[f"op_{cell_type}"] = ops & _edges_in_use(pairs, topology)[:, None]
    return Mask(**cut)


def are_real(topology: Topology) -> Tensor:
    """Return which operations a network can end with, (O,): all but ``none``."""
    return torch.tensor([name != "none" for name in topology.operations])


def entropy(alphas: Alphas, mask: Mask, topology: Topology, tau: float) -> float:
    """Return how undecided the operations are: mean entropy of the edges in use, from 0 to 1.

    1 is a uniform choice among all O operations, 0 a decision on every edge.
    """
    rows = []
    for cell_type in CELL_TYPES:
        op_logits, op_alive = alphas.cell(cell_type)[0], mask.cell(cell_type)[0]
        p = masked_softmax(op_logits / tau, op_alive)
        rows.append(torch.special.entr(p).sum(dim=1)[op_alive.any(dim=1)])
    return float(torch.cat(rows).mean()) / max(1.0, math.log(len(topology.operations)))


def _strongest(logits: Tensor, alive: Tensor) -> Tensor:
    """Return True at the first greatest living entry along the last dimension, else False."""
    best = logits.masked_fill(~alive, -torch.inf).argmax(dim=-1, keepdim=True)
    return torch.zeros_like(alive).scatter_(-1, best, True) & alive


def _edges_in_use(pairs: Tensor, topology: Topology) -> Tensor:
    """Return for every edge whether a living pair contains it, (E,)."""
    return (pairs.to(topology.incidence) @ topology.incidence) > 0
