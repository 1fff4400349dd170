"""The supernet and the network derived from it."""

import pytest
import torch
from helpers import (
    generator,
    make_shape,
    one_hot_mask,
    random_alphas,
    random_images,
    random_mask,
    random_parameters,
)

from client.learner import Parameters
from search_space.alphas import Mask, Noise, Topology
from search_space.genotype import Genotype, load_weights
from search_space.operations import OPERATIONS, ReLUConvNorm, register
from search_space.prediction import Relaxed
from search_space.relaxation import relax
from search_space.supernet import (
    Network,
    NetworkShape,
    alive_names,
    build_supernet,
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


def mixed_by_hand(
    network: Network,
    theta: Parameters,
    shape: NetworkShape,
    mask: Mask,
    tau: float,
    images: torch.Tensor,
) -> torch.Tensor:
    """Every edge, every operation, multiplied out one by one."""
    materialised = Network(shape, network.alive).double()
    materialised.load_state_dict(theta.weights)
    coefficients = relax(theta.alphas, mask, shape.topology, tau)
    before = last = materialised.stem(images)
    for cell in materialised.cells:
        states = [cell.first(before), cell.second(last)]
        edge = 0
        for node in range(shape.topology.nodes):
            total = torch.zeros(())
            for source in range(node + 2):
                for column, name in enumerate(shape.topology.operations):
                    term = cell.edges[str(edge)][name](states[source])
                    total = total + coefficients[cell.cell_type][edge, column] * term
                edge += 1
            states.append(total)
        before, last = last, torch.cat(states[2:], dim=1)
    return materialised.classifier(torch.relu(last).mean(dim=(2, 3)))


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_the_supernet_is_the_mixed_sum_written_out(norm: str) -> None:
    shape = make_shape(nodes=3, layers=3, norm=norm)
    network, theta = random_parameters(shape, 5)
    images, _ = random_images(shape, 6)
    for mask in (Mask.full(shape.topology), random_mask(shape.topology, 1)):
        logits = Relaxed(network, shape, mask, 0.8, "gumbel").predict(*theta, images)

        torch.testing.assert_close(logits, mixed_by_hand(network, theta, shape, mask, 0.8, images))


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
                assert f"cells.{cell}.edges.{edge}.sep_conv_3x3.0.1.weight" in kept


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


def test_the_operation_of_the_readme_can_be_searched() -> None:
    @register("conv_1x1")
    def conv_1x1(channels: int, stride: int, norm: str) -> torch.nn.Module:
        return ReLUConvNorm(channels, channels, kernel=1, stride=stride, norm=norm)

    try:
        shape = make_shape(operations=("skip_connect", "conv_1x1"))
        network, theta = random_parameters(shape, 0, SINGLE)
        images, _ = random_images(shape, 1, dtype=SINGLE)
        mask = one_hot_mask(shape.topology, 2)
        logits = Relaxed(network, shape, mask, 1.0, "gumbel").predict(*theta, images)
        genotype = Genotype.from_json(Genotype.from_mask(shape, mask).to_json())
        torch.testing.assert_close(derived(shape, mask, theta)(images), logits)
        assert "conv_1x1" in {n for node in genotype.normal + genotype.reduce for n, _ in node}
        with pytest.raises(ValueError, match="conv_1x1"):
            register("conv_1x1")
    finally:
        del OPERATIONS["conv_1x1"]


def test_topology_by_hand() -> None:
    topology = Topology(2, ("skip_connect",))

    assert topology.edges == ((0, 0), (0, 1), (1, 0), (1, 1), (1, 2))
    assert topology.pairs == ((0, 1), (2, 3), (2, 4), (3, 4))
    assert topology.incidence.sum(dim=0).tolist() == [1, 1, 2, 2, 2]
    assert random_alphas(topology, 0).op_normal.shape == (5, 1)
