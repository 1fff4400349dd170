"""The supernet and the network derived from it."""

from collections.abc import Callable

import pytest
import torch
from helpers import (
    documented_example,
    generator,
    make_shape,
    one_hot_mask,
    random_alphas,
    random_images,
    random_mask,
    random_parameters,
)

from fedmetanas.benchmarks.plain import plain_logits
from fedmetanas.client.learner import Episode, LearnerSettings, Loss, meta_gradient
from fedmetanas.client.parameters import Parameters
from fedmetanas.search_space import modules, operations
from fedmetanas.search_space.alphas import Alphas, Mask, Noise, Topology
from fedmetanas.search_space.genotype import Genotype, load_weights
from fedmetanas.search_space.modules import make_norm
from fedmetanas.search_space.names import DEFAULT_OPERATIONS, OPERATION_NAMES, RELAXATIONS
from fedmetanas.search_space.operations import OPERATIONS, register
from fedmetanas.search_space.prediction import Relaxed, loss_and_accuracy
from fedmetanas.search_space.relaxation import relax
from fedmetanas.search_space.supernet import (
    Network,
    NetworkShape,
    Weights,
    alive_names,
    build_supernet,
    call,
    initial_weights,
)

SINGLE = torch.float32


def derived(shape: NetworkShape, mask: Mask, theta: Parameters) -> torch.nn.Module:
    names = alive_names(shape, list(theta.weights), mask.alive(shape.topology))
    network = Genotype.from_mask(shape, mask).network()
    load_weights(network, {name: theta.weights[name] for name in names})
    return network


@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize(("nodes", "layers"), [(1, 1), (2, 3), (4, 5)])
def test_masked_supernet_is_the_derived_network(nodes: int, layers: int, norm: str) -> None:
    shape = make_shape(nodes=nodes, layers=layers, norm=norm)
    for seed in range(3):
        network, theta = random_parameters(shape, seed, SINGLE)
        images, _ = random_images(shape, seed, dtype=SINGLE)
        mask = one_hot_mask(shape.topology, seed)

        logits = Relaxed(network, shape, mask, 0.37, "gumbel").predict(*theta, images)

        expected = derived(shape, mask, theta)(images)
        torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0)
        assert expected.std() > 1e-3


@pytest.mark.parametrize("size", [(8, 8), (11, 10), (29, 30)])  # the last one without bundles
@pytest.mark.parametrize("relaxation", RELAXATIONS)
@pytest.mark.parametrize("norm", ["batch", "group"])
def test_the_supernet_is_the_plain_one_in_value_and_gradient(
    norm: str, relaxation: str, size: tuple[int, int]
) -> None:
    shape = make_shape(nodes=3, layers=3, norm=norm, operations=(*DEFAULT_OPERATIONS, "none"))
    network, theta = random_parameters(shape, 5)
    images, labels = random_images(shape, 6, size)
    noise = Noise.draw(shape.topology, generator(7), torch.float64)
    theta = theta.with_tensors([tensor.requires_grad_() for tensor in theta.tensors()])
    for mask in (Mask.full(shape.topology), random_mask(shape.topology, 1)):
        coefficients = relax(theta.alphas, mask, shape.topology, 0.8, relaxation, noise)
        expected = plain_logits(shape, theta.weights, coefficients, images)
        if relaxation == "gumbel-hard":  # what is not drawn does not run: its gradient is zero
            coefficients = {t: c * (c.detach() != 0) for t, c in coefficients.items()}
            expected = plain_logits(shape, theta.weights, coefficients, images)

        logits = Relaxed(network, shape, mask, 0.8, relaxation).predict(*theta, images, noise)

        torch.testing.assert_close(logits, expected)
        ours, theirs = (
            torch.autograd.grad(
                torch.nn.functional.cross_entropy(values, labels),
                theta.tensors(),
                materialize_grads=True,
            )
            for values in (logits, expected)
        )
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("size", [(9, 8), (30, 29)])
@pytest.mark.parametrize("second_order", [False, True])
@pytest.mark.parametrize("norm", ["batch", "group"])
def test_the_meta_gradient_is_that_of_the_plain_supernet(
    norm: str, second_order: bool, size: tuple[int, int]
) -> None:
    shape = make_shape(norm=norm)
    network, theta = random_parameters(shape, 3)
    mask = Mask.full(shape.topology)
    relaxed = Relaxed(network, shape, mask, 0.8, "gumbel")
    batches = [random_images(shape, seed, size) for seed in (4, 5)]

    def fast(weights: Weights, alphas: Alphas, images: torch.Tensor) -> torch.Tensor:
        return relaxed.predict(weights, alphas, images)

    def plain(weights: Weights, alphas: Alphas, images: torch.Tensor) -> torch.Tensor:
        coefficients = relax(alphas, mask, shape.topology, 0.8)
        return plain_logits(shape, weights, coefficients, images)

    def gradient(predict: Callable[..., torch.Tensor]) -> list[torch.Tensor]:
        losses: list[Loss] = [
            lambda theta, batch=batch: loss_and_accuracy(predict(*theta, batch[0]), batch[1])
            for batch in batches
        ]
        episode = Episode(losses[:1], losses[1])
        settings = LearnerSettings(0.3, 0.2, 1e9, second_order)
        return meta_gradient(theta, episode, settings)[1].tensors()

    torch.testing.assert_close(gradient(fast), gradient(plain))


@pytest.mark.parametrize("size", [(8, 8), (9, 9), (13, 17), (28, 28)])
@pytest.mark.parametrize("in_channels", [1, 3, 4])
def test_any_size_from_8x8_and_any_number_of_channels(
    size: tuple[int, int], in_channels: int
) -> None:
    for layers in (1, 2, 4):
        shape = make_shape(nodes=1, layers=layers, in_channels=in_channels)
        network, theta = random_parameters(shape, 1, SINGLE)
        images, _ = random_images(shape, 2, size, count=2, dtype=SINGLE)

        logits = Relaxed(network, shape, Mask.full(shape.topology), 1.0, "gumbel").predict(
            *theta, images
        )

        assert logits.shape == (2, 3)
        assert torch.isfinite(logits).all()


@pytest.mark.parametrize("name", list(OPERATIONS))
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [7, 8])
def test_an_operation_keeps_or_halves_the_size(name: str, stride: int, size: int) -> None:
    images = torch.randn(2, 4, size, size, generator=generator(0))

    result = OPERATIONS[name](4, stride, "group")(images)

    assert result.shape == (2, 4, -(-size // stride), -(-size // stride))


@pytest.mark.parametrize(("norm", "alone"), [("group", True), ("batch", False)])
def test_whether_a_prediction_depends_on_the_other_images(norm: str, alone: bool) -> None:
    shape = make_shape(norm=norm)
    network, theta = random_parameters(shape, 3)
    relaxed = Relaxed(network, shape, Mask.full(shape.topology), 1.0, "gumbel")
    images, _ = random_images(shape, 4)
    others = torch.cat([images[:1], 3 * images[1:].flip(0)])

    first, second = (relaxed.predict(*theta, batch)[0] for batch in (images, others))

    assert torch.allclose(first, second, atol=1e-9) is alone


def test_the_weights_of_the_dead_are_not_needed() -> None:
    shape = make_shape(nodes=3, layers=4)
    network, theta = random_parameters(shape, 2)
    images, _ = random_images(shape, 3)
    mask = random_mask(shape.topology, 3)
    alive = mask.alive(shape.topology)
    kept = alive_names(shape, list(theta.weights), alive)
    relaxed = Relaxed(network, shape, mask, 1.0, "gumbel")

    some = relaxed.predict({name: theta.weights[name] for name in kept}, theta.alphas, images)

    assert torch.equal(some, relaxed.predict(*theta, images))
    types = shape.cell_types()
    for name in set(theta.weights) - set(kept):
        _, cell, _, edge, operation, *_ = name.split(".")
        assert operation not in alive[types[int(cell)]].get(int(edge), ())
    for cell, kind in enumerate(types):
        for edge, names in alive[kind].items():
            if "sep_conv_3x3" in names:
                assert f"cells.{cell}.edges.{edge}.sep_conv_3x3.1.weight" in kept


def test_gumbel_hard_runs_only_what_is_drawn() -> None:
    shape = make_shape(nodes=2, layers=3)
    network, theta = random_parameters(shape, 8)
    images, _ = random_images(shape, 9)
    mask = Mask.full(shape.topology)
    noise = Noise.draw(shape.topology, generator(4), torch.float64)
    drawn = relax(theta.alphas, mask, shape.topology, 1.0, "gumbel-hard", noise)
    types = shape.cell_types()
    poisoned = dict(theta.weights)
    for name in poisoned:
        parts = name.split(".")
        if parts[0] == "cells" and parts[2] == "edges":
            column = shape.topology.operations.index(parts[4])
            if drawn[types[int(parts[1])]][int(parts[3]), column] == 0:
                poisoned[name] = torch.full_like(poisoned[name], torch.nan)
    relaxed = Relaxed(network, shape, mask, 1.0, "gumbel-hard")

    logits = relaxed.predict(poisoned, theta.alphas, images, noise)

    assert any(torch.isnan(w).any() for w in poisoned.values())
    assert torch.equal(logits, relaxed.predict(*theta, images, noise))
    assert torch.isfinite(logits).all()


def test_the_same_seed_gives_the_same_weights() -> None:
    network = build_supernet(make_shape())

    first, again, other = (initial_weights(network, generator(seed)) for seed in (1, 1, 2))

    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["stem.0.weight"], other["stem.0.weight"])


def test_reductions_are_at_one_and_two_thirds() -> None:
    kinds = [make_shape(layers=n).cell_types() for n in (1, 3, 8)]

    assert kinds[0] == ["normal"]
    assert kinds[1] == ["normal", "reduce", "reduce"]
    assert [i for i, kind in enumerate(kinds[2]) if kind == "reduce"] == [2, 5]


def test_the_documented_operation_can_be_searched() -> None:
    exec(documented_example('@register("conv_3x3")'), {**vars(modules), **vars(operations)})
    try:
        shape = make_shape(operations=("skip_connect", "conv_3x3"))
        network, theta = random_parameters(shape, 0, SINGLE)
        images, _ = random_images(shape, 1, dtype=SINGLE)
        mask = one_hot_mask(shape.topology, 2)
        logits = Relaxed(network, shape, mask, 1.0, "gumbel").predict(*theta, images)
        genotype = Genotype.from_json(Genotype.from_mask(shape, mask).to_json())
        torch.testing.assert_close(derived(shape, mask, theta)(images), logits)
        assert "conv_3x3" in {n for node in genotype.normal + genotype.reduce for n, _ in node}
        with pytest.raises(ValueError, match="conv_3x3"):
            register("conv_3x3")
    finally:
        del OPERATIONS["conv_3x3"]
        OPERATION_NAMES.remove("conv_3x3")


@pytest.mark.parametrize("size", [(8, 8), (30, 29)])  # the last one without bundles
def test_two_names_for_one_module_on_an_edge_count_twice(
    size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("skip_connect", "max_pool_3x3", "sep_conv_3x3", "skip_too", "pool_too")
    shape = make_shape(operations=names)
    images, _ = random_images(shape, 1, size=size)
    mask = Mask.full(shape.topology)

    def logits_and_slopes(kind: type[torch.nn.Module]) -> list[torch.Tensor]:
        for name, same in (("skip_too", "skip_connect"), ("pool_too", "max_pool_3x3")):
            of_same = OPERATIONS[same]
            monkeypatch.setitem(OPERATIONS, name, lambda *a, of_same=of_same: kind(of_same(*a)))
        network, theta = random_parameters(shape, 2)
        alphas = [tensor.requires_grad_() for tensor in theta.alphas.tensors()]
        relaxed = Relaxed(network, shape, mask, 1.0, "softmax")
        logits = relaxed.predict(theta.weights, Alphas(*alphas), images)
        return [logits, *torch.autograd.grad(logits.square().sum(), alphas, materialize_grads=True)]

    alone = logits_and_slopes(torch.nn.Sequential)  # a module of its own for each edge and name
    together = logits_and_slopes(lambda module: module)  # type: ignore[arg-type]

    torch.testing.assert_close(together, alone)
    assert alone[1].abs().max() > 1e-6


def test_topology_by_hand() -> None:
    topology = Topology(2, ("skip_connect",))

    assert topology.edges == ((0, 0), (0, 1), (1, 0), (1, 1), (1, 2))
    assert topology.pairs == ((0, 1), (2, 3), (2, 4), (3, 4))
    assert topology.incidence.sum(dim=0).tolist() == [1, 1, 2, 2, 2]
    assert random_alphas(topology, 0).op_normal.shape == (5, 1)


def normed(x: torch.Tensor, norm: str) -> torch.Tensor:
    """Over the batch, or over groups of four channels of each image."""
    count, channels = x.shape[:2]
    if norm == "group":
        groups = x.reshape(count, channels // 4, -1)
        deviation = (groups.var(dim=2, correction=0, keepdim=True) + 1e-5).sqrt()
        return ((groups - groups.mean(dim=2, keepdim=True)) / deviation).reshape(x.shape)
    deviation = (x.var(dim=(0, 2, 3), correction=0, keepdim=True) + 1e-5).sqrt()
    return (x - x.mean(dim=(0, 2, 3), keepdim=True)) / deviation


def windows(x: torch.Tensor, kernel: int, stride: int, dilation: int, fill: float) -> torch.Tensor:
    """What a kernel sees at each place, (B, C, H', W', k, k); `fill` beyond the border."""
    reach = dilation * (kernel // 2)
    padded = torch.nn.functional.pad(x, (reach, reach, reach, reach), value=fill)
    height, width = x.shape[2:]
    rows = [
        torch.stack(
            [
                padded[:, :, dilation * i :, dilation * j :][:, :, :height:stride, :width:stride]
                for j in range(kernel)
            ],
            dim=-1,
        )
        for i in range(kernel)
    ]
    return torch.stack(rows, dim=-2)


def operation_by_hand(
    name: str, weights: list[torch.Tensor], x: torch.Tensor, stride: int, norm: str
) -> torch.Tensor:
    if name == "none":
        return 0 * x[:, :, ::stride, ::stride]
    if name == "skip_connect":
        if stride == 1:
            return x
        x = x.clamp(min=0)
        shifted = torch.zeros_like(x)
        shifted[:, :, :-1, :-1] = x[:, :, 1:, 1:]
        halves = [
            torch.einsum("oi,bihw->bohw", w[:, :, 0, 0], half[:, :, ::2, ::2])
            for w, half in zip(weights, (x, shifted), strict=True)
        ]
        return normed(torch.cat(halves, dim=1), norm)
    if name == "max_pool_3x3":
        return normed(windows(x, 3, stride, 1, -torch.inf).amax(dim=(4, 5)), norm)
    if name == "avg_pool_3x3":
        return normed(windows(x, 3, stride, 1, torch.nan).nanmean(dim=(4, 5)), norm)
    kernel, dilation = int(name[-1]), 2 if name.startswith("dil") else 1
    for depthwise, pointwise in zip(weights[::2], weights[1::2], strict=True):
        seen = windows(x.clamp(min=0), kernel, stride, dilation, 0.0)
        x = torch.einsum("bchwij,cij->bchw", seen, depthwise[:, 0])
        x = normed(torch.einsum("oi,bihw->bohw", pointwise[:, :, 0, 0], x), norm)
        stride = 1
    assert len(weights) == (2 if name.startswith("dil") else 4)
    return x


@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("name", list(OPERATIONS))
def test_an_operation_is_what_its_name_says(name: str, stride: int, norm: str) -> None:
    operation = OPERATIONS[name](8, stride, norm).double()
    source = generator(3)
    images = torch.randn(3, 8, 9, 7, generator=source, dtype=torch.float64)
    for parameter in operation.parameters():
        torch.nn.init.normal_(parameter, generator=source)

    result = operation(images)

    weights = [p.detach() for p in operation.parameters()]
    torch.testing.assert_close(
        result.detach(), operation_by_hand(name, weights, images, stride, norm)
    )


@pytest.mark.parametrize("channels", [1, 3, 6, 10, 14])
def test_any_number_of_channels_has_a_group_norm(channels: int) -> None:
    images = torch.randn(2, channels, 5, 5, generator=generator(1), dtype=torch.float64)

    result = make_norm(channels, "group")(3 * images + 2)

    means = result.mean(dim=(1, 2, 3))
    torch.testing.assert_close(means, torch.zeros(2, dtype=torch.float64), atol=1e-9, rtol=0)
    assert result.var() == pytest.approx(1.0, rel=0.05)


@pytest.mark.parametrize("layers", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [(8, 8), (13, 17)])
def test_a_reduction_halves_the_size_and_doubles_the_channels(
    layers: int, size: tuple[int, int]
) -> None:
    shape = make_shape(nodes=2, layers=layers, channels=3)
    network = Network(shape, Mask.full(shape.topology).alive(shape.topology))
    images, _ = random_images(shape, 2, size, dtype=SINGLE)
    shapes = []
    for cell in network.cells:
        cell.register_forward_hook(lambda _module, _inputs, output: shapes.append(output.shape))

    network(images)

    (height, width), channels = size, 3
    for kind, found in zip(shape.cell_types(), shapes, strict=True):
        if kind == "reduce":
            height, width, channels = -(-height // 2), -(-width // 2), 2 * channels
        assert found == (5, 2 * channels, height, width)


def test_initial_weights_have_the_deviation_of_he() -> None:
    network = build_supernet(make_shape(channels=16, layers=2))

    weights = initial_weights(network, generator(5))

    scaled = [w * (w[0].numel() / 2) ** 0.5 for w in weights.values() if w.dim() == 4]
    sample = torch.cat([w.flatten() for w in scaled])
    # The variance of n normals has a relative deviation of sqrt(2 / n).
    assert float(sample.var()) == pytest.approx(1.0, abs=5 * (2 / len(sample)) ** 0.5)
    classifier = weights["classifier.weight"]
    assert float(classifier.var()) * 3 * classifier.shape[1] == pytest.approx(
        1.0, abs=5 * (2 / classifier.numel()) ** 0.5
    )
    assert torch.all(weights["classifier.bias"] == 0)


@pytest.mark.parametrize("tau", [1e-3, 50.0])
def test_a_decided_supernet_does_not_depend_on_the_temperature(tau: float) -> None:
    shape = make_shape(nodes=3, layers=2)
    network, theta = random_parameters(shape, 4, SINGLE)
    images, _ = random_images(shape, 5, (9, 9), dtype=SINGLE)
    mask = one_hot_mask(shape.topology, 6)
    expected = derived(shape, mask, theta)(images)

    for relaxation in ("softmax", "gumbel", "gumbel-hard"):
        logits = Relaxed(network, shape, mask, tau, relaxation).predict(*theta, images)
        torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0)
        # The same where nothing is left out: every operation, most of them times zero.
        coefficients = relax(theta.alphas, mask, shape.topology, tau, relaxation)
        logits = call(network, theta.weights, images, coefficients)
        torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0)


def test_a_mask_is_decided_when_nothing_is_left_to_choose() -> None:
    shape = make_shape(nodes=2, layers=2)
    network, theta = random_parameters(shape, 4)
    images, _ = random_images(shape, 5)
    mask = one_hot_mask(shape.topology, 1)
    edge = int(mask.op_normal.any(dim=1).nonzero()[0])
    ops, pairs = mask.op_normal.clone(), mask.input_normal.clone()
    ops[edge] = True
    pairs[1:] = True
    edges_alive = mask.op_normal.clone()
    edges_alive[:, 0] |= ~mask.op_normal.any(dim=1)  # one operation an edge, many pairs a node
    undecided = [
        Mask(ops, mask.op_reduce, mask.input_normal, mask.input_reduce),
        Mask(edges_alive, mask.op_reduce, pairs, mask.input_reduce),
    ]

    assert Relaxed(network, shape, mask, 1.0, "gumbel").decided
    for other in undecided:
        relaxed = Relaxed(network, shape, other, 0.8, "gumbel")
        coefficients = relax(theta.alphas, other, shape.topology, 0.8)
        expected = plain_logits(shape, theta.weights, coefficients, images)
        assert not relaxed.decided
        torch.testing.assert_close(relaxed.predict(*theta, images), expected)
