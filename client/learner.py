"""The task learner and the meta learner: the algorithm, as pure functions, on one screen.

Huang and Gao, "Federated Neural Architecture Search with Model-Agnostic Meta Learning", 2025,
https://arxiv.org/abs/2504.06457, on top of Finn, Abbeel and Levine, "MAML", 2017,
https://arxiv.org/abs/1703.03400. With theta = (w, a), a client's round is

    for every episode (B_S from the support part, B_Q from the query part):
        theta' = theta                                          # task learner
        repeat M times:
            theta' = theta' - lambda grad L(B_S; theta')
        g = grad L(B_Q; theta')                                 # meta learner
            first order: with respect to theta'; second order: to theta, through the M steps
        theta = outer optimisers(theta; g)                      # SGD with momentum; Adam for a

The outer loss is L(B_Q; theta') or, of the same cost, the sum of it and of the M support losses on
the way there, each at its own parameters: Antoniou, Edwards and Storkey, "How to Train Your MAML",
2019, https://arxiv.org/abs/1810.09502, section 4. In first order g is then the sum of all M + 1
gradients, the direction of Reptile: Nichol, Achiam and Schulman, 2018, https://arxiv.org/abs/1803.02999.

Parameters and data go in, parameters come out; nothing here knows of Flower, files or devices.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fedmetanas.search_space.kernels.joining import join, take_apart
from fedmetanas.search_space.supernet import Weights

from .optimizers import OuterOptimizers, OuterState
from .parameters import Parameters, leaves

#: The loss of a batch under given parameters and, for the record, the accuracy; two scalars.
Loss = Callable[[Parameters], tuple[Tensor, Tensor]]


class Episode(NamedTuple):
    """The losses of one episode: one of the support batch per inner step, one of the query batch.

    The noise of the relaxation is part of each loss: one draw for each forward pass.
    """

    support: list[Loss]
    query: Loss


@dataclass(frozen=True)
class LearnerSettings:
    """What both learners are told.

    Attributes
    ----------
    inner_lr, inner_alpha_lr : float
        lambda_w and lambda_a, >= 0, the step sizes of the task learner.
    clip : float
        Greatest norm of a gradient of the weights.
    second_order : bool
        Whether the outer gradient goes through the inner steps.
    outer_loss : {"query", "all"}
        That of the query batch, or the sum of it and of the support losses on the way.
    """

    inner_lr: float
    inner_alpha_lr: float
    clip: float
    second_order: bool = False
    outer_loss: str = "query"


def task_learner(
    theta: Parameters, support: Iterable[Loss], settings: LearnerSettings
) -> Parameters:
    """Adapt parameters to a task by one gradient step for each of the losses.

    Parameters
    ----------
    theta : Parameters
        Where to start; not changed. For second order it must want gradients, and the result is
        differentiable in it.
    support : iterable of Loss
        The M losses, one a step.
    settings : LearnerSettings
        Step sizes, clip and order.
    """
    adapted = theta if settings.second_order else leaves(theta)
    for of_batch in support:
        adapted, _, _ = _inner_step(adapted, of_batch, settings)
    return adapted


def _inner_step(
    start: Parameters, of_batch: Loss, settings: LearnerSettings
) -> tuple[Parameters, Tensor, Parameters]:
    """Return the parameters after one step; the loss before it and its gradient, not clipped."""
    loss = of_batch(start)[0]
    gradient = _gradient(loss, start, create_graph=settings.second_order)
    slopes = clipped(gradient.weights, settings.clip)
    weights = _descend(start.weights.values(), slopes.values(), settings.inner_lr)
    alphas = _descend(start.alphas.tensors(), gradient.alphas.tensors(), settings.inner_alpha_lr)
    end = start.with_tensors([*weights, *alphas])
    return end if settings.second_order else leaves(end), loss, gradient


def _descend(values: Iterable[Tensor], slopes: Iterable[Tensor], step: float) -> list[Tensor]:
    """Return the values less the slopes times the step."""
    return list(torch._foreach_sub(list(values), list(slopes), alpha=step))


def meta_gradient(
    theta: Parameters, episode: Episode, settings: LearnerSettings
) -> tuple[tuple[Tensor, Tensor], Parameters]:
    """Return the query loss after adaptation, and the gradient of the outer loss, of one episode.

    Parameters
    ----------
    theta : Parameters
        Where to start; not changed.
    episode : Episode
        The losses.
    settings : LearnerSettings
        Those of the task learner, and which outer loss it is.

    Returns
    -------
    loss, accuracy : Tensor
        L(B_Q; theta') and the accuracy with it, scalars without graph.
    gradient : Parameters
        First order: of each loss with respect to the parameters it was taken at. Second order:
        with respect to theta. Not clipped.
    """
    adapted = theta = leaves(theta)
    losses, gradients = [], []  # of the support batches, as far as they count
    for of_batch in episode.support:
        adapted, of_step, slope = _inner_step(adapted, of_batch, settings)
        if settings.outer_loss == "all":
            losses.append(of_step)
            gradients.append(slope)
    loss, accuracy = episode.query(adapted)
    if settings.second_order:
        gradient = _gradient(sum(losses, loss), theta, create_graph=False)
    else:
        gradient = _gradient(loss, adapted, create_graph=False)
        for slope in gradients:
            total = torch._foreach_add(gradient.tensors(), slope.tensors())
            gradient = theta.with_tensors(list(total))
    return (loss.detach(), accuracy), gradient


#: One step of a learner: from parameters, optimisers' state and what to learn from (an episode)
#: to both after it, and the loss and accuracy, (2,), before it.
Step = Callable[[Parameters, OuterState, Any], tuple[Parameters, OuterState, Tensor]]


def one_by_one(
    step: Step, theta: Parameters, state: OuterState, items: Iterable[Any]
) -> tuple[Parameters, Tensor]:
    """Run a step for each of at least one item.

    Parameters
    ----------
    step : Step
        The learner's.
    theta, state
        Where to start.
    items : iterable
        What each step learns from.

    Returns
    -------
    theta : Parameters
        The parameters after all steps.
    history : Tensor of shape (items, 2)
        What each step measured.
    """
    history = []
    for item in items:
        theta, state, measured = step(theta, state, item)
        history.append(measured)
    return theta, torch.stack(history)


#: What runs the steps of a learner.
Runner = Callable[[Step, Parameters, OuterState, Iterable[Any]], tuple[Parameters, Tensor]]


def meta_learner(
    theta: Parameters,
    episodes: Iterable[Episode],
    settings: LearnerSettings,
    outer: OuterOptimizers,
    run: Runner = one_by_one,
) -> tuple[Parameters, Tensor]:
    """Run a client's episodes one after the other, see :func:`meta_gradient`.

    Parameters
    ----------
    theta, settings
        As those of :func:`meta_gradient`.
    episodes : iterable of Episode
        At least one.
    outer : OuterOptimizers
        What takes the outer steps.
    run : callable, optional
        Runs the steps as :func:`one_by_one` does, perhaps faster.

    Returns
    -------
    theta : Parameters
        The parameters after all outer steps.
    history : Tensor of shape (episodes, 2)
        The query loss and accuracy of every episode, before its outer step.
    """

    def step(
        theta: Parameters, state: OuterState, episode: Episode
    ) -> tuple[Parameters, OuterState, Tensor]:
        measured, gradient = meta_gradient(theta, episode, settings)
        gradient = gradient._replace(weights=clipped(gradient.weights, settings.clip))
        return *outer.step(theta, gradient, state), torch.stack(measured)

    return run(step, theta, outer.initial(theta), episodes)


def _gradient(loss: Tensor, theta: Parameters, create_graph: bool) -> Parameters:
    """Return the gradient of a loss; zero for what it does not depend on."""
    slopes = torch.autograd.grad(
        loss, theta.tensors(), create_graph=create_graph, materialize_grads=True
    )
    return theta.with_tensors(list(slopes))


def clipped(gradient: Weights, clip: float) -> Weights:
    """Scale the gradient of the weights to a norm of at most `clip`."""
    slopes = join(gradient.values())  # PyTorch's own clipping has no second derivative
    scale = (clip / (slopes.norm() + 1e-12)).clamp(max=1.0)
    scaled = take_apart(slopes * scale, list(gradient.values()))
    return dict(zip(gradient, scaled, strict=True))
