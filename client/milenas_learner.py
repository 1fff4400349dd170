"""The learner of FedNAS's clients: steps of the alphas and of the weights in turn.

He, Ye, Shen and Zhang, "MiLeNAS: Efficient Neural Architecture Search via Mixed-Level
Reformulation", 2020, https://arxiv.org/abs/2003.12238, equation 4, as He, Annavaram and Avestimehr,
"FedNAS", 2020, https://arxiv.org/abs/2004.08546, use it on every client:

    for every pair of batches (B_S from the support part, B_Q from the query part):
        a = Adam(a; grad_a L(B_Q; w, a) + lambda grad_a L(B_S; w, a))
        w = SGD with momentum(w; grad_w L(B_S; w, a))
"""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from fedmetanas.search_space.alphas import Alphas

from .learner import Loss, Runner, clipped, one_by_one
from .optimizers import OuterOptimizers, OuterState
from .parameters import Parameters
from .sgd_learner import alphas_gradient, weights_gradient


class BatchPair(NamedTuple):
    """The losses of a support batch and of a query batch."""

    support: Loss
    query: Loss


def milenas_learner(
    theta: Parameters,
    pairs: Iterable[BatchPair],
    optimizers: OuterOptimizers,
    clip: float,
    support_share: float,
    run: Runner = one_by_one,
) -> tuple[Parameters, Tensor]:
    """Take one step of the alphas and one of the weights for each pair of batches.

    Parameters
    ----------
    theta : Parameters
        Where to start; not changed.
    pairs : iterable of BatchPair
        The losses, one pair a step.
    optimizers : OuterOptimizers
        Adam for the alphas, SGD with momentum for the weights.
    clip : float
        Greatest norm of the gradient of the weights; that of the alphas is not clipped.
    support_share : float
        lambda, >= 0.
    run : callable, optional
        As that of :func:`fedmetanas.client.learner.meta_learner`.

    Returns
    -------
    theta : Parameters
        The parameters after all steps.
    history : Tensor of shape (steps, 2)
        The query loss and accuracy of every pair, before its steps.
    """

    def step(
        theta: Parameters, state: OuterState, pair: BatchPair
    ) -> tuple[Parameters, OuterState, Tensor]:
        measured, of_query = alphas_gradient(pair.query, theta)
        _, of_support = alphas_gradient(pair.support, theta)
        both = zip(of_query.tensors(), of_support.tensors(), strict=True)
        slopes = Alphas(*(query + support_share * support for query, support in both))
        alphas, state = optimizers.step_alphas(theta.alphas, slopes, state)
        theta = theta._replace(alphas=alphas)
        _, gradient = weights_gradient(pair.support, theta)
        weights, state = optimizers.step_weights(theta.weights, clipped(gradient, clip), state)
        return theta._replace(weights=weights), state, torch.stack(measured)

    return run(step, theta, optimizers.initial(theta), pairs)
