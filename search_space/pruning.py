"""Soft pruning: what has become improbable dies during the search, so that nothing is cut later.

After Elsken et al., "Meta-Learning of Neural Architectures for Few-Shot Learning", 2020,
https://arxiv.org/abs/1911.11090: with p = softmax(alpha / tau) over the living operations of an
edge and q = softmax(beta / tau) over the living pairs of a node,

    p_o < operation_threshold  ->  the operation dies
    q_pair < pair_threshold    ->  the pair dies

An edge that no living pair contains dies with all its operations. The most probable operation of
an edge in use, and the most probable pair of a node, never die.
"""

import math

import torch
from torch import Tensor

from .alphas import CELL_TYPES, Alphas, Mask, Topology
from .relaxation import masked_softmax, pair_probabilities


def soft_prune(
    alphas: Alphas,
    mask: Mask,
    topology: Topology,
    tau: float,
    operation_threshold: float,
    pair_threshold: float,
) -> Mask:
    """Return the mask after pruning at temperature `tau`; nothing dead comes back to life.

    Parameters
    ----------
    alphas : Alphas
        Logits.
    mask : Mask
        What was alive.
    topology : Topology
        Edges and pairs of a cell.
    tau : float
        Temperature, > 0.
    operation_threshold, pair_threshold : float
        Probabilities in [0, 1); 0 prunes nothing.
    """
    pruned: dict[str, Tensor] = {}
    for cell_type in CELL_TYPES:
        op_logits, pair_logits = alphas.cell(cell_type)
        op_alive, pair_alive = mask.cell(cell_type)
        p = masked_softmax(op_logits / tau, op_alive)
        q = pair_probabilities(pair_logits / tau, pair_alive, topology)
        ops = op_alive & ((p >= operation_threshold) | _strongest(op_logits, op_alive))
        pairs = pair_alive & (q >= pair_threshold)
        for own in (list(pairs_of_node) for pairs_of_node in topology.node_pairs):
            pairs[own] |= _strongest(pair_logits[own], pair_alive[own])
        pruned[f"input_{cell_type}"] = pairs
        pruned[f"op_{cell_type}"] = ops & _edges_in_use(pairs, topology)[:, None]
    return Mask(**pruned)


def final_cut(alphas: Alphas, mask: Mask, topology: Topology) -> Mask:
    """Keep the strongest living pair of every node and the strongest operation of its edges."""
    return soft_prune(alphas, mask, topology, 1.0, 1.0, 1.0)


def strongest_inputs_cut(alphas: Alphas, topology: Topology) -> Mask:
    """Keep the two strongest inputs of every node, by the strongest operation of each.

    How a network is derived where input pairs have no logits of their own: Liu, Simonyan and Yang,
    "DARTS", 2019, https://arxiv.org/abs/1806.09055, section 2.4. The operation ``none`` is not
    counted, as it is not there: a derived network has no use for it.
    """
    real = torch.tensor([name != "none" for name in topology.operations])
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
