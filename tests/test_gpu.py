"""On a GPU: the same mathematics, recorded steps, nothing that waits, no memory left behind."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch
from helpers import generator, make_shape, random_images, random_mask, random_parameters
from test_recorded_steps import LEARNING, OUTER, assert_same

from fedmetanas.benchmarks.plain import plain_logits
from fedmetanas.client.batch_loss import BatchLoss
from fedmetanas.client.cuda_graphs import STEPS, RecordedSteps, cuda_graphs
from fedmetanas.client.learner import Episode, Runner, meta_learner, one_by_one
from fedmetanas.client.numpy_client import MetaClient
from fedmetanas.client.parameters import Parameters
from fedmetanas.experiments.commands.main import main
from fedmetanas.experiments.engines.inline import run_inline
from fedmetanas.experiments.experiment import Experiment
from fedmetanas.search_space.alphas import Mask, Noise
from fedmetanas.search_space.names import DEFAULT_OPERATIONS
from fedmetanas.search_space.prediction import Relaxed
from fedmetanas.search_space.relaxation import relax
from fedmetanas.strategies import wire

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

GPU = torch.device("cuda")
DOUBLE = torch.float64


def on_gpu(theta: Parameters) -> Parameters:
    return theta.with_tensors([tensor.detach().to(GPU) for tensor in theta.tensors()])


@pytest.mark.parametrize("size", [(8, 8), (11, 10), (28, 28)])
@pytest.mark.parametrize("norm", ["batch", "group"])
def test_the_supernet_is_the_plain_one_of_the_cpu(norm: str, size: tuple[int, int]) -> None:
    shape = make_shape(nodes=3, layers=3, norm=norm, operations=(*DEFAULT_OPERATIONS, "none"))
    network, theta = random_parameters(shape, 5)
    images, labels = random_images(shape, 6, size)
    noise = Noise.draw(shape.topology, generator(7), DOUBLE)
    for mask in (Mask.full(shape.topology), random_mask(shape.topology, 1)):
        theirs = theta.with_tensors([t.detach().requires_grad_() for t in theta.tensors()])
        coefficients = relax(theirs.alphas, mask, shape.topology, 0.8, "gumbel", noise)
        expected = plain_logits(shape, theirs.weights, coefficients, images)
        ours = on_gpu(theta)
        ours = ours.with_tensors([tensor.requires_grad_() for tensor in ours.tensors()])
        relaxed = Relaxed(network, shape, mask, 0.8, "gumbel", GPU)

        logits = relaxed.predict(*ours, images.to(GPU), noise.to(GPU))

        torch.testing.assert_close(logits.cpu(), expected)
        slopes, expected_slopes = (
            torch.autograd.grad(
                torch.nn.functional.cross_entropy(values, labels.to(values.device)),
                of.tensors(),
                materialize_grads=True,
            )
            for values, of in ((logits, ours), (expected, theirs))
        )
        torch.testing.assert_close([slope.cpu() for slope in slopes], list(expected_slopes))


@pytest.mark.parametrize("second_order", [False, True])
@pytest.mark.parametrize("relaxation", ["gumbel", "softmax"])
def test_recorded_steps_are_those_one_by_one(relaxation: str, second_order: bool) -> None:
    shape = make_shape(nodes=2, layers=3, norm="batch")
    network, theta = random_parameters(shape, 3)
    theta, mask = on_gpu(theta), Mask.full(shape.topology)
    steps = RecordedSteps(cuda_graphs)

    def episodes(first: int, count: int) -> Iterator[Episode]:
        for number in range(first, first + 3):
            losses = []
            for part in (0, 1):
                images, labels = random_images(shape, 2 * number + part, (16, 16), count=count)
                noise = Noise.draw(shape.topology, generator(number + part), DOUBLE)
                relaxed = Relaxed(network, shape, mask, 0.8, relaxation, GPU)
                batch = images.to(GPU), labels.to(GPU)
                losses.append(BatchLoss(relaxed, *batch, noise.to(GPU)))
            yield Episode(losses[:1], losses[1])

    def learnt(run: Runner, first: int, count: int) -> tuple[Parameters, torch.Tensor]:
        settings = replace(LEARNING, second_order=second_order)
        result, history = meta_learner(theta, episodes(first, count), settings, OUTER, run)
        rounded = [tensor.cpu().float() for tensor in result.tensors()]
        return result.with_tensors(rounded), history.cpu().float()

    # Batches of two sizes in turns: the recordings share memory.
    for first, count in ((0, 6), (10, 4), (20, 6), (30, 4)):
        recorded = learnt(lambda *arguments: steps.run("plan", *arguments), first, count)
        assert_same(recorded, learnt(one_by_one, first, count), rtol=1e-5, atol=1e-6)
    assert len(steps.recordings) == 2


def client(*overrides: str) -> tuple[MetaClient, list[str], Experiment]:
    opened = replace(tiny.experiment_of(*overrides), device=GPU)
    arrays = wire.to_arrays(*opened.initial_parameters())
    return MetaClient(opened, 0, list(arrays)), list(arrays.values()), opened


@pytest.mark.parametrize("augment", ["none", "shift-flip"])
@pytest.mark.parametrize("order", ["first", "second"])
def test_a_round_never_waits_for_the_gpu(order: str, augment: str) -> None:
    settings = f"client.second_order={order == 'second'}", f"data.augment={augment}"
    meta_client, arrays, _ = client(*settings, "client.episodes=4")
    meta_client.learn(arrays, {"server-round": 1})  # makes what is kept, and the recording
    torch.cuda.set_sync_debug_mode("error")
    try:
        theta, history = meta_client.learn(arrays, {"server-round": 1})
    finally:
        torch.cuda.set_sync_debug_mode("default")

    assert STEPS.recordings
    assert {tensor.device.type for tensor in [*theta.tensors(), history]} == {"cuda"}
    assert torch.isfinite(history).all()


def test_a_client_learns_what_it_does_on_a_cpu() -> None:
    meta_client, arrays, opened = client("client.episodes=3")
    of_cpu = MetaClient(replace(opened, device=torch.device("cpu")), 0, meta_client.keys)
    for _ in range(2):  # the second time by the recording alone
        theirs, ours = (c.fit(arrays, {"server-round": 1})[0] for c in (of_cpu, meta_client))
        for expected, found, before in zip(theirs, ours, arrays, strict=True):
            step = abs(expected - before).max()
            assert abs(expected - found).max() <= 0.02 * step + 1e-7


def test_a_run_gives_the_memory_back(tmp_path_factory: pytest.TempPathFactory) -> None:
    in_use = []
    for _ in range(3):
        settings = tiny.settings_of("engine.device=cuda", "client.episodes=3")
        folder = tmp_path_factory.mktemp("run") / "out"
        run_inline(settings, {"settings": settings.to_yaml(), "out": str(folder)})
        assert (folder / "summary.json").exists()
        in_use.append((torch.cuda.memory_allocated(), torch.cuda.memory_reserved()))
    assert in_use[2] == in_use[1]


def test_ray_shares_the_card(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    file = tmp_path / "tiny.yaml"
    file.write_text(tiny.YAML)
    out = tmp_path / "out"

    assert (
        main(["run", str(file), "engine.device=cuda", "engine.workers=3", "--out", str(out)]) == 0
    )

    assert (out / "summary.json").exists()
