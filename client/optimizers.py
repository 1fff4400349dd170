"""The outer optimisers of a client: what takes a step once a gradient is there.

SGD with momentum for the weights. Adam for the alphas: Kingma and Ba, 2015,
https://arxiv.org/abs/1412.6980, with beta 0.9 and 0.999.

The proximal term of FedProx is mu / 2 times the squared distance from the weights w0 as the server
sent them: Li et al., "Federated Optimization in Heterogeneous Networks", 2020,
https://arxiv.org/abs/1812.06127. Each step of SGD ends where that term and the distance from the
step's own end v are least, argmin_w mu / 2 |w - w0|^2 + |w - v|^2 / (2 lr), which is

    w = w0 + (v - w0) / (1 + lr mu)

and pulls the weights back however great mu is. To add the term's gradient to that of the loss
would make them swing about w0, further each time where lr mu > 2.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from fedmetanas.search_space.alphas import Alphas
from fedmetanas.search_space.supernet import Weights

from .parameters import Parameters


class OuterState(NamedTuple):
    """Memory of the outer optimisers within a client's round.

    `step` counts those of Adam and `lr` is eta_w: tensors without dimensions, not numbers, since
    they change from one step, or one round, to the next. `sent` are the weights as the server sent
    them, where a proximal term asks for them.
    """

    step: Tensor
    lr: Tensor
    momentum: list[Tensor]
    first: list[Tensor]
    second: list[Tensor]
    sent: list[Tensor]


@dataclass(frozen=True)
class OuterOptimizers:
    """SGD with momentum, weight decay and a proximal term for the weights, Adam for the alphas.

    Attributes
    ----------
    lr, alpha_lr : float
        eta_w and eta_a.
    momentum : float
        Of the weights, in [0, 1).
    weight_decay : float
        Of the weights, >= 0.
    proximal_mu : float
        mu, >= 0; with 0 there is no proximal term.
    """

    lr: float
    alpha_lr: float
    momentum: float
    weight_decay: float
    proximal_mu: float = 0.0

    def initial(self, theta: Parameters) -> OuterState:
        """Return the state before the first step: no moments yet, and `theta` is what was sent."""
        momentum = [torch.zeros_like(w) for w in theta.weights.values()]
        first, second = ([torch.zeros_like(a) for a in theta.alphas.tensors()] for _ in range(2))
        lr = torch.full_like(first[0][0, 0], self.lr)
        sent = [w.detach() for w in theta.weights.values()] if self.proximal_mu else []
        count = torch.zeros_like(lr, dtype=torch.float64)
        return OuterState(count, lr, momentum, first, second, sent)

    def step(
        self, theta: Parameters, gradient: Parameters, state: OuterState
    ) -> tuple[Parameters, OuterState]:
        """Return the parameters and the state after one step of both."""
        weights, state = self.step_weights(theta.weights, gradient.weights, state)
        alphas, state = self.step_alphas(theta.alphas, gradient.alphas, state)
        return Parameters(weights, alphas), state

    def step_weights(
        self, weights: Weights, gradient: Weights, state: OuterState
    ) -> tuple[Weights, OuterState]:
        """Return the weights and the state after one step of SGD, and the proximal one."""
        values = [w.detach() for w in weights.values()]
        slopes = torch._foreach_add(list(gradient.values()), values, alpha=self.weight_decay)
        momentum = torch._foreach_add(torch._foreach_mul(state.momentum, self.momentum), slopes)
        moved = torch._foreach_sub(values, torch._foreach_mul(momentum, state.lr))
        if self.proximal_mu:
            away = torch._foreach_sub(moved, state.sent)
            kept = torch._foreach_div(away, 1 + state.lr * self.proximal_mu)
            moved = torch._foreach_add(state.sent, kept)
        return dict(zip(weights, moved, strict=True)), state._replace(momentum=list(momentum))

    def step_alphas(
        self, alphas: Alphas, gradient: Alphas, state: OuterState
    ) -> tuple[Alphas, OuterState]:
        """Return the alphas and the state after one step of Adam."""
        count = state.step + 1
        first, second, moved = [], [], []
        values_and_slopes = zip(alphas.tensors(), gradient.tensors(), strict=True)
        for (a, g), m, v in zip(values_and_slopes, state.first, state.second, strict=True):
            m = 0.9 * m + 0.1 * g
            v = 0.999 * v + 0.001 * g * g
            unbiased = m / (1 - 0.9**count), v / (1 - 0.999**count)
            moved.append(a.detach() - self.alpha_lr * unbiased[0] / (unbiased[1].sqrt() + 1e-8))
            first.append(m)
            second.append(v)
        return Alphas(*moved), state._replace(step=count, first=first, second=second)
