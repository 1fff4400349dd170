"""Steps from recordings against the same steps one by one.

A recording here calls the function again. As in a CUDA graph, it sees only the tensors that it was
recorded with, and it does not run while it is recorded.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from helpers import generator, make_shape, random_images, random_parameters
from torch import Tensor

from fedmetanas.client.batch_loss import BatchLoss
from fedmetanas.client.cuda_graphs import KEPT, RecordedSteps
from fedmetanas.client.learner import Episode, LearnerSettings, Runner, meta_learner, one_by_one
from fedmetanas.client.milenas_learner import BatchPair, milenas_learner
from fedmetanas.client.optimizers import OuterOptimizers
from fedmetanas.client.parameters import Parameters
from fedmetanas.client.sgd_learner import sgd_learner
from fedmetanas.search_space.alphas import Mask, Noise
from fedmetanas.search_space.prediction import Relaxed

SHAPE = make_shape(nodes=2, layers=2)
MASK = Mask.full(SHAPE.topology)
NETWORK, THETA = random_parameters(SHAPE, 3)
OUTER = OuterOptimizers(0.1, 0.05, 0.9, 1e-3)
LEARNING = LearnerSettings(0.2, 0.1, clip=5.0)


class Recorder:
    """Counts what is recorded."""

    def __init__(self) -> None:
        self.recorded = 0

    def __call__(self) -> Callable[[Callable[[], None]], Callable[[], None]]:
        return self.record

    def record(self, function: Callable[[], None]) -> Callable[[], None]:
        self.recorded += 1
        return function


def loss(number: int, count: int = 5) -> BatchLoss:
    """A batch with its noise; of the same number always the same."""
    images, labels = random_images(SHAPE, number, count=count)
    noise = Noise.draw(SHAPE.topology, generator(100 + number), torch.float64)
    return BatchLoss(Relaxed(NETWORK, SHAPE, MASK, 0.8, "gumbel"), images, labels, noise)


def meta(run: Runner, numbers: range, count: int = 5, lr: float = 0.1) -> tuple[Any, Tensor]:
    outer = OuterOptimizers(lr, 0.05, 0.9, 1e-3)
    episodes = [Episode([loss(2 * n, count)], loss(2 * n + 1, count)) for n in numbers]
    return meta_learner(THETA, episodes, LEARNING, outer, run)


def sgd(run: Runner, numbers: range) -> tuple[Parameters, Tensor]:
    return sgd_learner(THETA, [loss(n) for n in numbers], OUTER, 5.0, run)


def milenas(run: Runner, numbers: range) -> tuple[Parameters, Tensor]:
    pairs = [BatchPair(loss(2 * n), loss(2 * n + 1)) for n in numbers]
    return milenas_learner(THETA, pairs, OUTER, 5.0, 1.0, run)


def recorded(steps: RecordedSteps, plan: object = "plan") -> Runner:
    return lambda *arguments: steps.run(plan, *arguments)


def assert_same(
    result: tuple[Parameters, Tensor],
    expected: tuple[Parameters, Tensor],
    rtol: float = 0.0,
    atol: float = 0.0,
) -> None:
    assert list(result[0].weights) == list(expected[0].weights)
    for ours, theirs in zip(result[0].tensors(), expected[0].tensors(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=rtol, atol=atol)
    torch.testing.assert_close(result[1], expected[1], rtol=rtol, atol=atol)


@pytest.mark.parametrize("learner", [meta, sgd, milenas])
def test_clients_one_after_the_other_get_what_they_would_without(learner: Any) -> None:
    recorder = Recorder()
    steps = RecordedSteps(recorder)
    for numbers in (range(4), range(10, 13), range(20, 21)):  # state and data differ
        assert_same(learner(recorded(steps), numbers), learner(one_by_one, numbers))
    assert recorder.recorded == 1


def test_what_a_client_got_stays_when_the_next_one_learns() -> None:
    steps = RecordedSteps(Recorder())
    theta, history = meta(recorded(steps), range(3))
    before = [tensor.clone() for tensor in [*theta.tensors(), history]]

    meta(recorded(steps), range(5, 9))

    torch.testing.assert_close([*theta.tensors(), history], before, rtol=0, atol=0)


def test_what_the_server_sent_is_not_changed() -> None:
    before = [tensor.clone() for tensor in THETA.tensors()]
    steps = RecordedSteps(Recorder())
    for _ in range(2):
        meta(recorded(steps), range(3))

    torch.testing.assert_close(THETA.tensors(), before, rtol=0, atol=0)


def test_another_outer_rate_needs_no_recording() -> None:
    recorder = Recorder()
    steps = RecordedSteps(recorder)
    for lr in (0.1, 0.03):
        assert_same(meta(recorded(steps), range(3), lr=lr), meta(one_by_one, range(3), lr=lr))
    assert recorder.recorded == 1


def test_a_proximal_term_holds_each_client_to_what_it_was_sent() -> None:
    recorder = Recorder()
    steps = RecordedSteps(recorder)
    outer = replace(OUTER, proximal_mu=20.0)
    for factor in (1.0, 0.5):
        theta = THETA.with_tensors([factor * tensor for tensor in THETA.tensors()])
        losses = [loss(number) for number in range(3)]
        expected = sgd_learner(theta, losses, outer, 5.0, one_by_one)
        assert_same(sgd_learner(theta, losses, outer, 5.0, recorded(steps)), expected)
    assert recorder.recorded == 1


def test_each_size_of_batch_has_its_recording_and_the_last_used_are_kept() -> None:
    recorder = Recorder()
    steps = RecordedSteps(recorder)
    counts = range(2, 2 + KEPT)
    for count in (*counts, *counts):
        assert_same(meta(recorded(steps), range(2), count), meta(one_by_one, range(2), count))
    assert recorder.recorded == KEPT

    meta(recorded(steps), range(2), 2 + KEPT)  # takes the place of the one used longest ago
    meta(recorded(steps), range(2), 3)
    assert recorder.recorded == KEPT + 1
    meta(recorded(steps), range(2), 2)
    assert recorder.recorded == KEPT + 2


def test_weights_in_another_order_are_recorded_anew() -> None:
    steps = RecordedSteps(Recorder())
    names = list(THETA.weights)
    shapes = [tensor.shape for tensor in THETA.weights.values()]
    one, other = [i for i, shape in enumerate(shapes) if shape == shapes[-3]][:2]
    names[one], names[other] = names[other], names[one]  # so that the shapes are as before
    turned = THETA._replace(weights={name: THETA.weights[name] for name in names})

    for theta in (THETA, turned):
        losses = [loss(number) for number in range(3)]
        expected = sgd_learner(theta, losses, OUTER, 5.0, one_by_one)
        assert_same(sgd_learner(theta, losses, OUTER, 5.0, recorded(steps)), expected)


def test_another_plan_drops_the_recordings() -> None:
    recorder = Recorder()
    steps = RecordedSteps(recorder)
    for plan in ("first", "second", "first"):
        meta(recorded(steps, plan), range(2))
    assert recorder.recorded == 3
    assert len(steps.recordings) == 1
