"""The learner of FedAvg's clients: SGD on the weights, one step a batch.

McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data", 2017,
https://arxiv.org/abs/1602.05629, algorithm 1 (ClientUpdate):

    for every batch B:
        w = SGD with momentum(w; grad_w L(B; w, a))
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from fedmetanas.search_space.alphas import Alphas
from fedmetanas.search_space.supernet import Weights

from .learner import Loss, Runner, clipped, one_by_one
from .optimizers import OuterOptimizers, OuterState
from .parameters import Parameters


def sgd_learner(
    theta: Parameters,
    losses: Iterable[Loss],
    optimizers: OuterOptimizers,
    clip: float,
    run: Runner = one_by_one,
) -> tuple[Parameters, Tensor]:
    """Take one step of the weights for each loss; the alphas stay.

    Parameters
    ----------
    theta, run
        As those of :func:`fedmetanas.client.learner.meta_learner`.
    losses : iterable of Loss
        At least one.
    optimizers : OuterOptimizers
        SGD with momentum.
    clip : float
        Greatest norm of the gradient.

    Returns
    -------
    theta : Parameters
        The parameters after all steps.
    history : Tensor of shape (steps, 2)
        The loss and accuracy of every batch, before its step.
    """

    def step(
        theta: Parameters, state: OuterState, loss: Loss
    ) -> tuple[Parameters, OuterState, Tensor]:
        measured, slopes = weights_gradient(loss, theta)
        weights, state = optimizers.step_weights(theta.weights, clipped(slopes, clip), state)
        return theta._replace(weights=weights), state, torch.stack(measured)

    return run(step, theta, optimizers.initial(theta), losses)


def weights_gradient(loss: Loss, theta: Parameters) -> tuple[tuple[Tensor, Tensor], Weights]:
    """Return loss and accuracy, and the gradient of the weights alone."""
    weights = {name: w.detach().requires_grad_() for name, w in theta.weights.items()}
    value, accuracy = loss(Parameters(weights, theta.alphas))
    slopes = torch.autograd.grad(value, list(weights.values()), materialize_grads=True)
    return (value.detach(), accuracy), dict(zip(weights, slopes, strict=True))


def alphas_gradient(loss: Loss, theta: Parameters) -> tuple[tuple[Tensor, Tensor], Alphas]:
    """Return loss and accuracy, and the gradient of the alphas alone."""
    alphas = Alphas(*(a.detach().requires_grad_() for a in theta.alphas.tensors()))
    value, accuracy = loss(Parameters(theta.weights, alphas))
    slopes = torch.autograd.grad(value, alphas.tensors(), materialize_grads=True)
    return (value.detach(), accuracy), Alphas(*slopes)
