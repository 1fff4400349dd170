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

from fedmetanas.search_space.alphas import Alphas
from fedmetanas.search_space.kernels.joining import join, take_apart
from fedmetanas.search_space.supernet import Weights


class Parameters(NamedTuple):
    """What is learnt: theta = (w, a)."""

    weights: Weights
    alphas: Alphas

    def tensors(self) -> list[Tensor]:
        """Return all tensors, those of the weights first, in a fixed order."""
        return [*self.weights.values(), *self.alphas.tensors()]

    def with_tensors(self, tensors: list[Tensor]) -> "Parameters":
        """Return parameters of the same names with other values, in the order of `tensors`."""
        count = len(self.weights)
        weights = dict(zip(self.weights, tensors[:count], strict=True))
        return Parameters(weights, Alphas(*tensors[count:]))


#: The loss of a batch under given parameters and, for the record, the accuracy; two scalars.
Loss = Callable[[Parameters], tuple[Tensor, Tensor]]


class Episode(NamedTuple):
    """The losses of one episode: one of the support batch per inner step, one of the query batch.

    The noise of the relaxation is part of each loss: one draw for each forward pass.
    """

    support: list[Loss]
    query: Loss


@dataclass(frozen=True)
class InnerRates:
    """Step sizes of the task learner: lambda_w and lambda_a, >= 0."""

    weights: float
    alphas: float


def task_learner(
    theta: Parameters, support: Iterable[Loss], rates: InnerRates, clip: float, second_order: bool
) -> Parameters:
    """Adapt parameters to a task by one gradient step for each of the losses.

    Parameters
    ----------
    theta : Parameters
        Where to start; not changed. For second order it must want gradients.
    support : iterable of Loss
        The M losses, one a step.
    rates : InnerRates
        Step sizes.
    clip : float
        Greatest norm of the gradient of the weights.
    second_order : bool
        Keep the graph, so that the result is differentiable in `theta`.
    """
    adapted = theta if second_order else leaves(theta)
    for of_batch in support:
        adapted, _, _ = _inner_step(adapted, of_batch, rates, clip, second_order)
    return adapted


def _inner_step(
    start: Parameters, of_batch: Loss, rates: InnerRates, clip: float, second_order: bool
) -> tuple[Parameters, Tensor, Parameters]:
    """Return the parameters after one step; the loss before it and its gradient, not clipped."""
    loss = of_batch(start)[0]
    gradient = _gradient(loss, start, create_graph=second_order)
    slopes = clipped(gradient.weights, clip)
    weights = _descend(start.weights.values(), slopes.values(), rates.weights)
    alphas = _descend(start.alphas.tensors(), gradient.alphas.tensors(), rates.alphas)
    end = start.with_tensors([*weights, *alphas])
    return end if second_order else leaves(end), loss, gradient


def _descend(values: Iterable[Tensor], slopes: Iterable[Tensor], step: float) -> list[Tensor]:
    """Return the values less the slopes times the step."""
    return list(torch._foreach_sub(list(values), list(slopes), alpha=step))


def meta_gradient(
    theta: Parameters,
    episode: Episode,
    rates: InnerRates,
    clip: float,
    second_order: bool,
    outer_loss: str = "query",
) -> tuple[tuple[Tensor, Tensor], Parameters]:
    """Return the query loss after adaptation, and the gradient of the outer loss, of one episode.

    Parameters
    ----------
    theta, rates, clip, second_order
        As those of :func:`task_learner`.
    episode : Episode
        The losses.
    outer_loss : {"query", "all"}
        That of the query batch, or the sum of it and of the support losses on the way.

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
        adapted, of_step, slope = _inner_step(adapted, of_batch, rates, clip, second_order)
        if outer_loss == "all":
            losses.append(of_step)
            gradients.append(slope)
    loss, accuracy = episode.query(adapted)
    if second_order:
        gradient = _gradient(sum(losses, loss), theta, create_graph=False)
    else:
        gradient = _gradient(loss, adapted, create_graph=False)
        for slope in gradients:
            total = torch._foreach_add(gradient.tensors(), slope.tensors())
            gradient = theta.with_tensors(list(total))
    return (loss.detach(), accuracy), gradient


#: One step of a learner: from parameters, optimisers' state and what to learn from (an episode)
#: to both after it, and the loss and accuracy, (2,), before it.
Step = Callable[[Parameters, "OuterState", Any], tuple[Parameters, "OuterState", Tensor]]


def one_by_one(
    step: Step, theta: Parameters, state: "OuterState", items: Iterable[Any]
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
Runner = Callable[[Step, Parameters, "OuterState", Iterable[Any]], tuple[Parameters, Tensor]]


def meta_learner(
    theta: Parameters,
    episodes: Iterable[Episode],
    rates: InnerRates,
    outer: "OuterOptimizers",
    clip: float,
    second_order: bool,
    outer_loss: str = "query",
    run: Runner = one_by_one,
) -> tuple[Parameters, Tensor]:
    """Run a client's episodes one after the other, see :func:`meta_gradient`.

    Parameters
    ----------
    theta, rates, clip, second_order, outer_loss
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
        measured, gradient = meta_gradient(theta, episode, rates, clip, second_order, outer_loss)
        gradient = gradient._replace(weights=clipped(gradient.weights, clip))
        return *outer.step(theta, gradient, state), torch.stack(measured)

    return run(step, theta, outer.initial(theta), episodes)


class OuterState(NamedTuple):
    """Memory of the outer optimisers within a client's round.

    `step` counts those of Adam and `lr` is eta_w: tensors without dimensions, not numbers, since
    they change from one step, or one round, to the next.
    """

    step: Tensor
    lr: Tensor
    momentum: list[Tensor]
    first: list[Tensor]
    second: list[Tensor]


@dataclass(frozen=True)
class OuterOptimizers:
    """SGD with momentum and weight decay for the weights, Adam for the alphas.

    Adam: Kingma and Ba, 2015, https://arxiv.org/abs/1412.6980, with beta 0.9 and 0.999.

    Attributes
    ----------
    lr, alpha_lr : float
        eta_w and eta_a.
    momentum : float
        Of the weights, in [0, 1).
    weight_decay : float
        Of the weights, >= 0.
    """

    lr: float
    alpha_lr: float
    momentum: float
    weight_decay: float

    def initial(self, theta: Parameters) -> OuterState:
        """Return the state before the first step: all zero."""
        momentum = [torch.zeros_like(w) for w in theta.weights.values()]
        first, second = ([torch.zeros_like(a) for a in theta.alphas.tensors()] for _ in range(2))
        lr = torch.full_like(first[0][0, 0], self.lr)
        return OuterState(torch.zeros_like(lr, dtype=torch.float64), lr, momentum, first, second)

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
        """Return the weights and the state after one step of SGD."""
        values = [w.detach() for w in weights.values()]
        slopes = torch._foreach_add(list(gradient.values()), values, alpha=self.weight_decay)
        momentum = torch._foreach_add(torch._foreach_mul(state.momentum, self.momentum), slopes)
        moved = torch._foreach_sub(values, torch._foreach_mul(momentum, state.lr))
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


def leaves(theta: Parameters) -> Parameters:
    """Return the same values as leaves that want a gradient."""
    return theta.with_tensors([t.detach().requires_grad_() for t in theta.tensors()])


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
