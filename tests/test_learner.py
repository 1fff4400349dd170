"""Gradients of both learners against finite differences and against hand-unrolled arithmetic."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from helpers import generator, make_shape, random_images, random_parameters
from torch import Tensor

from fedmetanas.client.learner import (
    Episode,
    LearnerSettings,
    Loss,
    meta_gradient,
    meta_learner,
    task_learner,
)
from fedmetanas.client.optimizers import OuterOptimizers
from fedmetanas.client.parameters import Parameters
from fedmetanas.search_space.alphas import Alphas, Mask, Noise
from fedmetanas.search_space.prediction import Relaxed, loss_and_accuracy

NO_CLIP = 1e9
FIRST = LearnerSettings(inner_lr=0.3, inner_alpha_lr=0.5, clip=NO_CLIP)
SECOND = replace(FIRST, second_order=True)
SMOOTH = ("avg_pool_3x3", "skip_connect", "sep_conv_3x3")  # a max pool's kinks spoil differences


def supernet_episode(inner_steps: int, seed: int = 0) -> tuple[Parameters, Episode]:
    """A real supernet in float64 with a loss and noise of its own for every step."""
    shape = make_shape(layers=3, operations=SMOOTH)
    network, theta = random_parameters(shape, seed)
    relaxed = Relaxed(network, shape, Mask.full(shape.topology), 0.7, "gumbel")

    def loss(number: int) -> Loss:
        images, labels = random_images(shape, 100 + number)
        noise = Noise.draw(shape.topology, generator(200 + number), torch.float64)

        def of(theta: Parameters) -> tuple[Tensor, Tensor]:
            logits = relaxed.predict(theta.weights, theta.alphas, images, noise)
            return loss_and_accuracy(logits, labels)

        return of

    return theta, Episode([loss(m) for m in range(inner_steps)], loss(99))


def direction(theta: Parameters, part: str, seed: int) -> Parameters:
    """A random direction in the weights or in the alphas, of norm 1."""
    source = generator(seed)
    tensors = [torch.randn(t.shape, generator=source, dtype=t.dtype) for t in theta.tensors()]
    drawn = theta.with_tensors(tensors)
    zero = theta.with_tensors([torch.zeros_like(t) for t in tensors])
    kept = (
        Parameters(drawn.weights, zero.alphas)
        if part == "weights"
        else Parameters(zero.weights, drawn.alphas)
    )
    norm = torch.sqrt(sum(((t**2).sum() for t in kept.tensors()), torch.zeros(())))
    return theta.with_tensors([t / norm for t in kept.tensors()])


def moved(theta: Parameters, step: Parameters, length: float) -> Parameters:
    pairs = zip(theta.tensors(), step.tensors(), strict=True)
    return theta.with_tensors([t + length * s for t, s in pairs])


def slope(function: Callable[[Parameters], float], theta: Parameters, step: Parameters) -> float:
    """Central difference of a scalar function along a direction.

    The step is short because the gradient, and so the adapted parameters, jump where a ReLU turns
    on or off: with a longer one some of the thousands of units turn between the two points.
    """
    length = 1e-7
    ahead, behind = function(moved(theta, step, length)), function(moved(theta, step, -length))
    return (ahead - behind) / (2 * length)


def dot(first: Parameters, second: Parameters) -> float:
    pairs = zip(first.tensors(), second.tensors(), strict=True)
    return float(sum((a * b).sum() for a, b in pairs))


def adapted_by_hand(theta: Parameters, episode: Episode) -> Parameters:
    """The inner steps, written out again with autograd alone."""
    for loss in episode.support:
        leaves = theta.with_tensors([t.detach().requires_grad_() for t in theta.tensors()])
        loss(leaves)[0].backward()
        weights = {n: w - FIRST.inner_lr * w.grad for n, w in leaves.weights.items()}
        alphas = Alphas(*(a - FIRST.inner_alpha_lr * a.grad for a in leaves.alphas.tensors()))
        theta = Parameters(weights, alphas)
    return theta.with_tensors([t.detach() for t in theta.tensors()])


@pytest.mark.parametrize("part", ["weights", "alphas"])
@pytest.mark.parametrize("inner_steps", [1, 2, 3])
def test_second_order_is_the_derivative_through_the_inner_steps(
    inner_steps: int, part: str
) -> None:
    theta, episode = supernet_episode(inner_steps)

    _, gradient = meta_gradient(theta, episode, SECOND)

    def query_loss(start: Parameters) -> float:
        return float(episode.query(adapted_by_hand(start, episode))[0])

    for seed in range(3):
        along = direction(theta, part, seed)
        assert dot(gradient, along) == pytest.approx(slope(query_loss, theta, along), rel=1e-3)


@pytest.mark.parametrize("part", ["weights", "alphas"])
@pytest.mark.parametrize("inner_steps", [0, 1, 3])
def test_first_order_is_the_derivative_at_the_adapted_parameters(
    inner_steps: int, part: str
) -> None:
    theta, episode = supernet_episode(inner_steps)
    adapted = adapted_by_hand(theta, episode)

    (loss, _), gradient = meta_gradient(theta, episode, FIRST)

    assert float(loss) == pytest.approx(float(episode.query(adapted)[0]), rel=1e-9)
    for seed in range(3):
        along = direction(theta, part, seed)
        expected = slope(lambda at: float(episode.query(at)[0]), adapted, along)
        assert dot(gradient, along) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("part", ["weights", "alphas"])
@pytest.mark.parametrize("inner_steps", [1, 2])
def test_the_outer_loss_of_all_in_second_order_is_the_derivative_of_the_sum(
    inner_steps: int, part: str
) -> None:
    theta, episode = supernet_episode(inner_steps)

    (loss, _), gradient = meta_gradient(theta, episode, replace(SECOND, outer_loss="all"))

    def all_losses(start: Parameters) -> float:
        firsts = [Episode(episode.support[:m], episode.support[m]) for m in range(inner_steps)]
        ways = [*firsts, episode]
        return sum(float(way.query(adapted_by_hand(start, way))[0]) for way in ways)

    assert float(loss) == pytest.approx(float(episode.query(adapted_by_hand(theta, episode))[0]))
    for seed in range(3):
        along = direction(theta, part, seed)
        assert dot(gradient, along) == pytest.approx(slope(all_losses, theta, along), rel=1e-3)


@pytest.mark.parametrize("inner_steps", [0, 1, 3])
def test_the_outer_loss_of_all_in_first_order_is_reptiles_direction(inner_steps: int) -> None:
    # With equal rates of both parts, and a last inner step on the query batch, Reptile's
    # theta - theta'' is the rate times the sum of all gradients.
    theta, episode = supernet_episode(inner_steps)
    settings = LearnerSettings(0.3, 0.3, NO_CLIP, outer_loss="all")
    _, gradient = meta_gradient(theta, episode, settings)

    batches = [*episode.support, episode.query]
    end = task_learner(theta, batches, settings)

    for value, last, own in zip(theta.tensors(), end.tensors(), gradient.tensors(), strict=True):
        torch.testing.assert_close((value - last) / 0.3, own, rtol=1e-9, atol=1e-12)


def test_the_inner_clip_does_not_bound_the_support_gradients_in_the_outer_loss() -> None:
    theta, episode = supernet_episode(1)
    still = LearnerSettings(0.0, 0.0, NO_CLIP, outer_loss="all")
    free = meta_gradient(theta, episode, still)[1]

    bound = meta_gradient(theta, episode, replace(still, clip=1e-3))[1]

    pairs = zip(free.tensors(), bound.tensors(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


def test_second_order_differs_from_first_order_unless_there_is_no_inner_step() -> None:
    for inner_steps, differs in ((0, False), (1, True), (2, True)):
        theta, episode = supernet_episode(inner_steps)
        both = [meta_gradient(theta, episode, settings)[1] for settings in (FIRST, SECOND)]
        apart = moved(both[0], both[1], -1.0)
        relative = dot(apart, apart) / dot(both[0], both[0])
        assert (relative > 1e-4) is differs


def quadratic(curvature: tuple[float, float], target: tuple[float, float]) -> Loss:
    """L = sum of c (x - t)^2 / 2, plus a product, in one weight and one alpha."""

    def loss(theta: Parameters) -> tuple[Tensor, Tensor]:
        w, a = theta.weights["w"], theta.alphas.op_normal
        value = curvature[0] * (w - target[0]) ** 2 / 2 + curvature[1] * (a - target[1]) ** 2 / 2
        return (value + w * a).sum(), torch.zeros(())

    return loss


def two_numbers(w: float, a: float) -> Parameters:
    def scalar(value: float) -> Tensor:
        return torch.tensor([value], dtype=torch.float64)

    return Parameters({"w": scalar(w)}, Alphas(scalar(a), *(scalar(0.0) for _ in range(3))))


def test_two_parameters_unrolled_by_hand() -> None:
    # dL/dw = c0 (w - t0) + a, dL/da = c1 (a - t1) + w: two inner steps with plain arithmetic,
    # then the chain rule with the (constant) Hessian H = [[c0, 1], [1, c1]].
    c, t, w, a = (2.0, 3.0), (0.5, -0.25), 0.7, -1.1
    cq, tq = (1.5, 0.5), (-0.3, 0.9)
    jacobian = [[1.0, 0.0], [0.0, 1.0]]
    for _ in range(2):
        slope_w, slope_a = c[0] * (w - t[0]) + a, c[1] * (a - t[1]) + w
        w, a = w - FIRST.inner_lr * slope_w, a - FIRST.inner_alpha_lr * slope_a
        step = [
            [1 - FIRST.inner_lr * c[0], -FIRST.inner_lr],
            [-FIRST.inner_alpha_lr, 1 - FIRST.inner_alpha_lr * c[1]],
        ]
        jacobian = [
            [sum(step[i][k] * jacobian[k][j] for k in range(2)) for j in range(2)] for i in range(2)
        ]
    query_w, query_a = cq[0] * (w - tq[0]) + a, cq[1] * (a - tq[1]) + w
    expected = [query_w * jacobian[0][j] + query_a * jacobian[1][j] for j in range(2)]
    theta = two_numbers(0.7, -1.1)
    episode = Episode([quadratic(c, t)] * 2, quadratic(cq, tq))

    first = meta_gradient(theta, episode, FIRST)[1]
    second = meta_gradient(theta, episode, SECOND)[1]

    assert float(first.weights["w"]) == pytest.approx(query_w, rel=1e-12)
    assert float(first.alphas.op_normal) == pytest.approx(query_a, rel=1e-12)
    assert float(second.weights["w"]) == pytest.approx(expected[0], rel=1e-12)
    assert float(second.alphas.op_normal) == pytest.approx(expected[1], rel=1e-12)


@pytest.mark.parametrize("second_order", [False, True])
def test_a_rate_of_zero_leaves_its_part_alone(second_order: bool) -> None:
    theta, episode = supernet_episode(2)
    theta = theta.with_tensors([t.requires_grad_() for t in theta.tensors()])

    settings = replace(FIRST, second_order=second_order)
    still_w = task_learner(theta, episode.support, replace(settings, inner_lr=0.0))
    still_a = task_learner(theta, episode.support, replace(settings, inner_alpha_lr=0.0))

    assert all(torch.equal(still_w.weights[n], w) for n, w in theta.weights.items())
    assert not torch.equal(still_w.alphas.op_normal, theta.alphas.op_normal)
    pairs = zip(still_a.alphas.tensors(), theta.alphas.tensors(), strict=True)
    assert all(torch.equal(moved, a) for moved, a in pairs)
    assert not torch.equal(still_a.weights["stem.0.weight"], theta.weights["stem.0.weight"])


def test_the_clip_bounds_the_weights_gradient_and_not_the_alphas() -> None:
    theta, episode = supernet_episode(1)
    clip = 0.01

    adapted = task_learner(theta, episode.support, replace(FIRST, clip=clip))
    free = task_learner(theta, episode.support, FIRST)

    step = [adapted.weights[n].detach() - w for n, w in theta.weights.items()]
    norm = torch.sqrt(sum(((s**2).sum() for s in step), torch.zeros(())))
    assert float(norm) == pytest.approx(FIRST.inner_lr * clip, rel=1e-6)
    assert torch.equal(adapted.alphas.op_normal, free.alphas.op_normal)


def test_second_order_holds_with_an_active_clip() -> None:
    theta, episode = supernet_episode(1)
    clip = 0.05
    _, gradient = meta_gradient(theta, episode, replace(SECOND, clip=clip))

    def query_loss(start: Parameters) -> float:
        adapted = task_learner(start, episode.support, replace(FIRST, clip=clip))
        return float(episode.query(adapted)[0].detach())

    along = direction(theta, "weights", 5)
    assert dot(gradient, along) == pytest.approx(slope(query_loss, theta, along), rel=1e-3)


def test_the_outer_optimisers_are_sgd_and_adam_of_pytorch() -> None:
    theta, _ = supernet_episode(0)
    outer = OuterOptimizers(lr=0.1, alpha_lr=0.02, momentum=0.9, weight_decay=0.01)
    weights = [w.clone().requires_grad_() for w in theta.weights.values()]
    alphas = [a.clone().requires_grad_() for a in theta.alphas.tensors()]
    sgd = torch.optim.SGD(weights, lr=0.1, momentum=0.9, weight_decay=0.01)
    adam = torch.optim.Adam(alphas, lr=0.02)
    state = outer.initial(theta)

    for seed in range(4):
        source = generator(seed)
        slopes = [torch.randn(t.shape, generator=source, dtype=t.dtype) for t in theta.tensors()]
        for leaf, value in zip(weights + alphas, slopes, strict=True):
            leaf.grad = value
        sgd.step()
        adam.step()
        theta, state = outer.step(theta, theta.with_tensors(slopes), state)

    for ours, theirs in zip(theta.tensors(), weights + alphas, strict=True):
        torch.testing.assert_close(ours, theirs.detach(), rtol=1e-9, atol=1e-12)


def test_a_round_carries_parameters_and_moments_from_episode_to_episode() -> None:
    theta, first = supernet_episode(1)
    second = Episode(first.support, first.support[0])
    outer = OuterOptimizers(lr=0.1, alpha_lr=0.02, momentum=0.9, weight_decay=0.0)
    expected, state, losses = theta, outer.initial(theta), []
    for episode in (first, second, first):
        adapted = adapted_by_hand(expected, episode)
        at = adapted.with_tensors([t.requires_grad_() for t in adapted.tensors()])
        loss = episode.query(at)[0]
        slopes = torch.autograd.grad(loss, at.tensors())
        expected, state = outer.step(expected, expected.with_tensors(list(slopes)), state)
        losses.append(float(loss.detach()))

    trained, history = meta_learner(theta, [first, second, first], FIRST, outer)

    assert history[:, 0].tolist() == pytest.approx(losses, rel=1e-9)
    for ours, theirs in zip(trained.tensors(), expected.tensors(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("second_order", [False, True])
def test_what_the_server_sent_is_not_changed_in_place(second_order: bool) -> None:
    theta, episode = supernet_episode(2)
    before = [t.clone() for t in theta.tensors()]
    outer = OuterOptimizers(lr=0.1, alpha_lr=0.02, momentum=0.9, weight_decay=0.01)

    meta_learner(
        theta, [episode, episode], replace(FIRST, clip=5.0, second_order=second_order), outer
    )

    assert all(torch.equal(a, b) for a, b in zip(theta.tensors(), before, strict=True))


def test_adaptation_lowers_the_loss_it_descends() -> None:
    theta, episode = supernet_episode(1)
    settings = LearnerSettings(0.05, 0.05, NO_CLIP)

    adapted = task_learner(theta, episode.support * 10, settings)

    assert episode.support[0](adapted)[0] < episode.support[0](theta)[0]


def unrolled(
    leaves: Parameters, episode: Episode, clip: float, second_order: bool
) -> tuple[float, list[Tensor]]:
    """The inner steps with PyTorch's autograd and plain arithmetic; loss and gradients."""
    at = leaves
    for loss in episode.support:
        slopes = torch.autograd.grad(loss(at)[0], at.tensors(), create_graph=second_order)
        count = len(at.weights)
        norm = sum(((s**2).sum() for s in slopes[:count]), torch.zeros(())) ** 0.5
        assert float(norm.detach()) > clip, "choose a clip that is active"
        at = at.with_tensors(
            [
                t - FIRST.inner_lr * clip / norm * s
                for t, s in zip(at.weights.values(), slopes[:count], strict=True)
            ]
            + [
                t - FIRST.inner_alpha_lr * s
                for t, s in zip(at.alphas.tensors(), slopes[count:], strict=True)
            ]
        )
        if not second_order:
            at = at.with_tensors([t.detach().requires_grad_() for t in at.tensors()])
    loss = episode.query(at)[0]
    gradient = torch.autograd.grad(loss, (leaves if second_order else at).tensors())
    return float(loss.detach()), list(gradient)


@pytest.mark.parametrize("second_order", [False, True])
def test_a_round_is_clipped_sgd_and_adam_of_pytorch_on_the_meta_gradient(
    second_order: bool,
) -> None:
    theta, first = supernet_episode(2)
    episodes = [first, Episode(first.support[::-1], first.support[0]), first]
    clip = 0.02
    outer = OuterOptimizers(lr=0.5, alpha_lr=0.05, momentum=0.8, weight_decay=0.03)
    leaves = theta.with_tensors([t.clone().requires_grad_() for t in theta.tensors()])
    weights = list(leaves.weights.values())
    sgd = torch.optim.SGD(weights, lr=0.5, momentum=0.8, weight_decay=0.03)
    adam = torch.optim.Adam(leaves.alphas.tensors(), lr=0.05)
    losses = []
    for episode in episodes:
        loss, gradient = unrolled(leaves, episode, clip, second_order)
        for leaf, slope_of in zip(leaves.tensors(), gradient, strict=True):
            leaf.grad = slope_of
        assert float(torch.nn.utils.clip_grad_norm_(weights, clip)) > clip
        sgd.step()
        adam.step()
        losses.append(loss)

    trained, history = meta_learner(
        theta, episodes, replace(FIRST, clip=clip, second_order=second_order), outer
    )

    assert history[:, 0].tolist() == pytest.approx(losses, rel=1e-6)
    for ours, theirs, start in zip(
        trained.tensors(), leaves.tensors(), theta.tensors(), strict=True
    ):
        torch.testing.assert_close(ours, theirs.detach(), rtol=1e-5, atol=1e-6)
        assert not torch.allclose(ours, start, atol=1e-4)


@pytest.mark.parametrize("part", ["weights", "alphas"])
def test_an_active_clip_is_differentiated_too(part: str) -> None:
    theta, episode = supernet_episode(2, seed=3)
    clip = 0.05
    _, gradient = meta_gradient(theta, episode, replace(SECOND, clip=clip))

    def query_loss(start: Parameters) -> float:
        leaves = start.with_tensors([t.detach().requires_grad_() for t in start.tensors()])
        return unrolled(leaves, episode, clip, second_order=False)[0]

    for seed in range(2):
        along = direction(theta, part, seed)
        assert dot(gradient, along) == pytest.approx(slope(query_loss, theta, along), rel=1e-3)


@pytest.mark.parametrize("second_order", [False, True])
def test_without_inner_steps_it_is_the_plain_gradient(second_order: bool) -> None:
    theta, episode = supernet_episode(0)
    leaves = [t.clone().requires_grad_() for t in theta.tensors()]
    expected = torch.autograd.grad(episode.query(theta.with_tensors(leaves))[0], leaves)

    _, gradient = meta_gradient(
        theta, episode, replace(FIRST, clip=1e-3, second_order=second_order)
    )

    for ours, plain in zip(gradient.tensors(), expected, strict=True):
        assert torch.equal(ours, plain)
    assert gradient.alphas.op_normal.abs().max() > 0


def test_a_weight_without_slope_gives_no_nan_when_clipped() -> None:
    # At w = 0 the slope of w is 0 but in the graph: there the norm has no second derivative.
    def loss(theta: Parameters) -> tuple[Tensor, Tensor]:
        w, v = theta.weights["w"], theta.weights["v"]
        return ((w * v) ** 2 + (v - 3) ** 2 + theta.alphas.op_normal**2).sum(), torch.zeros(())

    start = two_numbers(0.0, 0.4)
    theta = Parameters({"w": start.weights["w"], "v": start.weights["w"] + 1.5}, start.alphas)

    _, gradient = meta_gradient(theta, Episode([loss], loss), replace(SECOND, clip=0.1))

    # v' = v + 0.3 * 0.1 whatever v, so the slope of v is the one at v'.
    assert float(gradient.weights["v"]) == pytest.approx(2 * (1.5 + 0.03 - 3))
    assert float(gradient.weights["w"]) == 0.0
