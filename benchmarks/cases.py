"""What is measured: a step, an episode, memory, a round; the fast code against the plain one."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fedmetanas.client.batch_loss import BatchLoss
from fedmetanas.client.cuda_graphs import RecordedSteps, cuda_graphs
from fedmetanas.client.learner import (
    Episode,
    LearnerSettings,
    Loss,
    Runner,
    meta_learner,
    one_by_one,
)
from fedmetanas.client.optimizers import OuterOptimizers, OuterState
from fedmetanas.client.parameters import Parameters, leaves
from fedmetanas.experiments.experiment import open_experiment
from fedmetanas.experiments.settings import load
from fedmetanas.search_space.alphas import Alphas, Mask, Noise, Topology
from fedmetanas.search_space.names import DEFAULT_OPERATIONS
from fedmetanas.search_space.prediction import CPU, Relaxed, loss_and_accuracy
from fedmetanas.search_space.relaxation import relax
from fedmetanas.search_space.supernet import (
    NetworkShape,
    alive_names,
    build_supernet,
    initial_weights,
)

from .measure import Comparison, compare, count_flop, in_turns, peak_memory
from .plain import plain_logits
from .rounds import masks_of_a_search, rounds

#: The network of the DARTS and FedNAS searches on CIFAR-10.
LARGE = NetworkShape(3, 10, 16, 8, Topology(4, DEFAULT_OPERATIONS), "batch")
LEARNING = LearnerSettings(0.02, 0.02, clip=5.0)
OUTER = OuterOptimizers(0.1, 0.02, 0.9, 3e-4)


@dataclass(frozen=True)
class Search:
    """A supernet with random parameters, and two batches of random images."""

    shape: NetworkShape
    theta: Parameters
    support: tuple[Tensor, Tensor]
    query: tuple[Tensor, Tensor]
    noise: Noise
    device: torch.device

    @staticmethod
    def of(shape: NetworkShape, batch_size: int, size: int, device: torch.device = CPU) -> "Search":
        """Draw parameters and batches of images of `size` x `size` pixels."""
        generator = torch.Generator().manual_seed(0)
        weights = initial_weights(build_supernet(shape), generator)
        alphas = Alphas.initial(shape.topology, generator).to(device)
        theta = Parameters({name: w.to(device) for name, w in weights.items()}, alphas)
        batches = [
            (
                torch.randn(batch_size, shape.in_channels, size, size, generator=generator),
                torch.randint(shape.classes, (batch_size,), generator=generator),
            )
            for _ in range(2)
        ]
        support, query = ((images.to(device), labels.to(device)) for images, labels in batches)
        noise = Noise.draw(shape.topology, generator, torch.float32).to(device)
        return Search(shape, theta, support, query, noise, device)

    def plain_loss(self, batch: tuple[Tensor, Tensor], relaxation: str = "gumbel") -> Loss:
        """Return the plain supernet's loss of a batch."""
        mask = Mask.full(self.shape.topology).to(self.device)

        def loss(theta: Parameters) -> tuple[Tensor, Tensor]:
            coefficients = relax(
                theta.alphas, mask, self.shape.topology, 1.0, relaxation, self.noise
            )
            logits = plain_logits(self.shape, theta.weights, coefficients, batch[0])
            return loss_and_accuracy(logits, batch[1])

        return loss

    def our_loss(self, batch: tuple[Tensor, Tensor], mask: Mask | None = None) -> Loss:
        """Return the supernet's loss of a batch."""
        mask = Mask.full(self.shape.topology) if mask is None else mask
        network = build_supernet(self.shape)
        relaxed = Relaxed(network, self.shape, mask, 1.0, "gumbel", self.device)
        return BatchLoss(relaxed, *batch, self.noise)

    def our_runner(self) -> Runner:
        """Return what runs our steps, as a client's are: on a GPU recordings."""
        if self.device.type == "cpu":
            return one_by_one
        return partial(RecordedSteps(cuda_graphs).run, "benchmark")


def weight_step(run: Search, loss: Loss, runner: Runner = one_by_one) -> Callable[[], Parameters]:
    """Return a function that takes one step of SGD: forward, backward, update."""

    def step(
        theta: Parameters, state: OuterState, loss: Loss
    ) -> tuple[Parameters, OuterState, Tensor]:
        theta = leaves(theta)
        value, accuracy = loss(theta)
        slopes = torch.autograd.grad(value, theta.tensors(), materialize_grads=True)
        moved = [t.detach() - 0.1 * s for t, s in zip(theta.tensors(), slopes, strict=True)]
        return theta.with_tensors(moved), state, torch.stack([value.detach(), accuracy])

    nothing = torch.zeros((), device=run.device)
    state = OuterState(nothing, nothing, [], [], [], [])
    return lambda: runner(step, run.theta, state, [loss])[0]


def plain_fednas_batch(run: Search) -> Callable[[], Any]:
    """Return FedNAS's local search on one batch: alphas by two batches, then weights by one.

    He, Annavaram and Avestimehr, 2020, https://arxiv.org/abs/2004.08546, and MiLeNAS, He et al.,
    2020, https://arxiv.org/abs/2003.12238. As in the authors' code the first two passes take the
    gradient of the alphas alone, and the third, a plain backward pass, that of everything.
    """
    support, query = (run.plain_loss(batch, "softmax") for batch in (run.support, run.query))

    def batch() -> None:
        theta = leaves(run.theta)
        for loss in (support, query):
            torch.autograd.grad(loss(theta)[0], theta.alphas.tensors(), allow_unused=True)
        torch.autograd.grad(support(theta)[0], theta.tensors(), allow_unused=True)

    return batch


def plain_episode(run: Search) -> Callable[[], Any]:
    """Return a first-order episode on the plain supernet."""
    support, query = run.plain_loss(run.support), run.plain_loss(run.query)
    return _episode(run.theta, support, query, one_by_one)


def our_episode(run: Search, mask: Mask | None = None) -> Callable[[], Any]:
    """Return a first-order episode, with what a mask leaves alive."""
    theta = run.theta
    if mask is not None:
        names = alive_names(run.shape, list(theta.weights), mask.alive(run.shape.topology))
        theta = Parameters({name: theta.weights[name] for name in names}, theta.alphas)
    support, query = run.our_loss(run.support, mask), run.our_loss(run.query, mask)
    return _episode(theta, support, query, run.our_runner())


def _episode(theta: Parameters, support: Loss, query: Loss, runner: Runner) -> Callable[[], Any]:
    episodes = [Episode([support], query)]
    return lambda: meta_learner(theta, episodes, LEARNING, OUTER, runner)


def small_search(device: torch.device) -> Search:
    """Return the supernet and the batches of the experiment digits.

    To open an experiment, as each process of a run does before it learns, also takes all there is
    by then out of the sight of Python's garbage collector: call this before a case is timed.
    """
    settings = load("digits")
    shape = open_experiment(settings).shape
    return Search.of(shape, settings.client.batch_size, 8, device)


def step(batch_size: int, repeats: int, device: torch.device) -> Iterator[Comparison]:
    """Compare one weight step."""
    small = small_search(device)
    large = Search.of(LARGE, batch_size, 32, device)
    for name, run in {"full supernet": large, "digits": small}.items():
        plain, ours = (loss(run.query) for loss in (run.plain_loss, run.our_loss))
        # The backward pass has twice the work of the forward pass.
        flop = 3 * count_flop(partial(plain, run.theta))
        steps = weight_step(run, plain), weight_step(run, ours, run.our_runner())
        calls = repeats if name == "full supernet" else 10 * repeats
        yield compare(f"step, {name}", *steps, calls, flop, device)


def episode(batch_size: int, repeats: int, device: torch.device) -> Iterator[Comparison]:
    """Compare episodes: with FedNAS's batch, over a whole search, on a small net."""
    small = small_search(device)
    run = Search.of(LARGE, batch_size, 32, device)
    case, fednas = "episode, full supernet, against FedNAS", plain_fednas_batch(run)
    first = compare(case, fednas, our_episode(run), repeats, device=device)
    yield first
    total, count_of_all = 0.0, 0
    for mask, count in masks_of_a_search():
        episode_of_round = our_episode(run, mask)
        episode_of_round()
        total += count * in_turns({"ours": episode_of_round}, 1, device)["ours"][0]
        count_of_all += count
    yield Comparison("the same, mean over a search", "s", first.plain, total / count_of_all, 0.0)
    episodes = plain_episode(small), our_episode(small)
    yield compare("episode, digits", *episodes, 10 * repeats, device=device)


def memory(batch_size: int, repeats: int, device: torch.device) -> Iterator[Comparison]:
    """Compare the greatest memory of one weight step, each in a process of its own."""
    plain, ours = (
        peak_memory(_prepared_step, name, batch_size, device) for name in ("plain", "ours")
    )
    yield Comparison("memory of a step, full supernet", "MB", plain, ours, 0.0)


def _prepared_step(name: str, batch_size: int, device: torch.device) -> Callable[[], Any]:
    torch.set_num_threads(1)
    run = Search.of(LARGE, batch_size, 32, device)
    if name == "plain":
        return weight_step(run, run.plain_loss(run.query))
    return weight_step(run, run.our_loss(run.query), run.our_runner())


CASES: dict[str, Callable[[int, int, torch.device], Iterator[Comparison]]] = {
    "step": step,
    "episode": episode,
    "round": rounds,
    "memory": memory,
}
