"""The dual relaxation of operations and input pairs, and the schedule of its temperature.

Gumbel-Softmax: Jang, Gu and Poole, 2017, https://arxiv.org/abs/1611.01144, and Maddison, Mnih and
Teh, 2017, https://arxiv.org/abs/1611.00712. Pairs of inputs: Elsken et al., "Meta-Learning of
Neural Architectures for Few-Shot Learning", 2020, https://arxiv.org/abs/1911.11090.

    z_o    = exp((alpha_o + g_o) / tau) / sum over living o' of exp((alpha_o' + g_o') / tau)
    s_(ik) = the same of beta over the living pairs of a node
    u_ij   = sum of s over the pairs that contain edge (i, j)

A cell only ever sees the products u_ij z_o, one number for each operation of each edge.
"""

import math
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from .alphas import CELL_TYPES, Alphas, Mask, Noise, Topology

#: For each cell type the coefficients u_ij z_o of its operations, (E, O), in [0, 1].
Coefficients = dict[str, Tensor]


def relax(
    alphas: Alphas,
    mask: Mask,
    topology: Topology,
    tau: float,
    relaxation: str = "gumbel",
    noise: Noise | None = None,
) -> Coefficients:
    """Turn architecture parameters into the coefficients of the operations.

    Parameters
    ----------
    alphas : Alphas
        Logits, any float type.
    mask : Mask
        What is alive; all else gets exactly zero.
    topology : Topology
        Edges and pairs of a cell.
    tau : float
        Temperature, > 0. As it goes to 0 each row becomes one-hot, as it goes to infinity uniform.
    relaxation : {"softmax", "softmax-pairs", "gumbel", "gumbel-hard"}
        ``softmax`` is that of DARTS: operations alone, every edge in use with weight 1, no noise
        (its tau is 1). ``softmax-pairs`` is ``gumbel`` without its noise. ``gumbel-hard`` is
        one-hot in value and has the gradient of the soft sample.
    noise : Noise, optional
        Gumbel noise of this forward pass; None in evaluation.

    Returns
    -------
    dict of str to Tensor
        For each cell type the coefficients, (E, O), in [0, 1], differentiable in `alphas`.
    """
    coefficients = {}
    for cell_type in CELL_TYPES:
        op_logits, pair_logits = alphas.cell(cell_type)
        op_alive, pair_alive = mask.cell(cell_type)
        if relaxation == "softmax":
            in_use = op_alive.any(dim=1, keepdim=True).to(op_logits.dtype)
            coefficients[cell_type] = in_use * masked_softmax(op_logits / tau, op_alive)
            continue
        if noise is not None and relaxation != "softmax-pairs":
            op_noise, pair_noise = noise.cell(cell_type)
            op_logits, pair_logits = op_logits + op_noise, pair_logits + pair_noise
        z = masked_softmax(op_logits / tau, op_alive)
        s = pair_probabilities(pair_logits / tau, pair_alive, topology)
        if relaxation == "gumbel-hard" and noise is not None:
            z = _straight_through(z)
            s = torch.cat([_straight_through(own) for own in _by_node(s, topology)])
        u = s @ _incidence(topology, s.dtype, s.device)
        coefficients[cell_type] = u[:, None] * z
    return coefficients


def masked_softmax(logits: Tensor, alive: Tensor) -> Tensor:
    """Softmax over the last dimension among what is alive; zero elsewhere, also in dead rows."""
    lowest = torch.finfo(logits.dtype).min
    return logits.masked_fill(~alive, lowest).softmax(dim=-1) * alive


def pair_probabilities(logits: Tensor, alive: Tensor, topology: Topology) -> Tensor:
    """Softmax of the pair logits (P,) among the living pairs of each node, (P,)."""
    nodes = zip(_by_node(logits, topology), _by_node(alive, topology), strict=True)
    return torch.cat([masked_softmax(own, living) for own, living in nodes])


def _by_node(of_pairs: Tensor, topology: Topology) -> tuple[Tensor, ...]:
    """Split a tensor (P,) into those of the nodes."""
    return torch.split(of_pairs, [len(pairs) for pairs in topology.node_pairs])


@cache
def _incidence(topology: Topology, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return which pair contains which edge, (P, E)."""
    return topology.incidence.to(device, dtype)


def _straight_through(soft: Tensor) -> Tensor:
    """Return one-hot values of the greatest entries with the gradient of `soft`.

    A row that is all zero (a dead edge) stays zero.
    """
    hard = torch.zeros_like(soft).scatter_(-1, soft.argmax(dim=-1, keepdim=True), 1.0)
    hard = hard * (soft.detach().amax(dim=-1, keepdim=True) > 0)
    return hard + (soft - soft.detach())


@dataclass(frozen=True)
class TemperatureSchedule:
    """The temperature of every round: from `start` in round 1 to `end` in round `rounds` and on.

    Attributes
    ----------
    kind : {"exponential", "linear", "constant"}
        Shape of the way down; ``constant`` stays at `start`.
    start, end : float
        Temperatures, start >= end > 0.
    rounds : int
        Round, counted from 1, in which `end` is reached.

    Examples
    --------
    >>> [TemperatureSchedule("exponential", 1.0, 0.01, 3)(r) for r in (1, 2, 3, 4)]
    [1.0, 0.1, 0.01, 0.01]
    """

    kind: str
    start: float
    end: float
    rounds: int

    def __call__(self, server_round: int) -> float:
        """Return the temperature of a round, counted from 1."""
        if self.kind == "constant":
            return self.start
        done = min(1.0, max(0, server_round - 1) / max(1, self.rounds - 1))
        if done == 1.0:
            return self.end
        if self.kind == "linear":
            return self.start + done * (self.end - self.start)
        return math.exp((1 - done) * math.log(self.start) + done * math.log(self.end))
