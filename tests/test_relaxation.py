"""The dual relaxation: limits, masks, the Gumbel-max property, straight-through gradients."""

from itertools import combinations, pairwise

import pytest
import torch
from helpers import generator, random_alphas, random_mask

from fedmetanas.search_space.alphas import CELL_TYPES, Alphas, Mask, Noise, Topology
from fedmetanas.search_space.relaxation import (
    TemperatureSchedule,
    masked_softmax,
    pair_probabilities,
    relax,
)

TOPOLOGY = Topology(3, ("skip_connect", "avg_pool_3x3", "sep_conv_3x3", "dil_conv_3x3"))
SEEDS = range(5)


def noise(seed: int) -> Noise:
    return Noise.draw(TOPOLOGY, generator(seed), torch.float64)


@pytest.mark.parametrize("seed", SEEDS)
def test_softmax_pairs_is_gumbel_without_its_noise(seed: int) -> None:
    alphas, mask = random_alphas(TOPOLOGY, seed), random_mask(TOPOLOGY, 50 + seed)

    without = relax(alphas, mask, TOPOLOGY, 0.6, "softmax-pairs", noise(seed))

    quiet = relax(alphas, mask, TOPOLOGY, 0.6, "gumbel", None)
    noisy = relax(alphas, mask, TOPOLOGY, 0.6, "gumbel", noise(seed))
    plain = relax(alphas, mask, TOPOLOGY, 0.6, "softmax", None)
    for kind in CELL_TYPES:
        assert torch.equal(without[kind], quiet[kind])
        assert not torch.allclose(without[kind], noisy[kind])
        assert not torch.allclose(without[kind], plain[kind])  # it weighs the inputs


@pytest.mark.parametrize("seed", SEEDS)
def test_coefficients_are_u_times_z_by_brute_force(seed: int) -> None:
    alphas, mask, drawn, tau = (
        random_alphas(TOPOLOGY, seed),
        random_mask(TOPOLOGY, 50 + seed),
        noise(seed),
        0.6,
    )

    coefficients = relax(alphas, mask, TOPOLOGY, tau, "gumbel", drawn)

    for kind in CELL_TYPES:
        op, pair = alphas.cell(kind)
        g_op, g_pair = drawn.cell(kind)
        op_alive, pair_alive = mask.cell(kind)
        offset = pair_offset = 0
        for node in range(3):
            inputs = range(node + 2)
            pairs = list(combinations(inputs, 2))
            scores = {
                p: torch.exp((pair[pair_offset + k] + g_pair[pair_offset + k]) / tau)
                for k, p in enumerate(pairs)
                if pair_alive[pair_offset + k]
            }
            for i in inputs:
                u = sum(s for p, s in scores.items() if i in p) / sum(scores.values())
                weights = (
                    torch.exp((op[offset + i] + g_op[offset + i]) / tau) * op_alive[offset + i]
                )
                expected = (
                    u * weights / weights.sum() if op_alive[offset + i].any() else 0 * weights
                )
                torch.testing.assert_close(coefficients[kind][offset + i], expected)
            offset, pair_offset = offset + len(inputs), pair_offset + len(pairs)


@pytest.mark.parametrize("relaxation", ["softmax", "gumbel", "gumbel-hard"])
@pytest.mark.parametrize("seed", SEEDS)
def test_the_dead_have_weight_and_gradient_zero(relaxation: str, seed: int) -> None:
    alphas, mask = random_alphas(TOPOLOGY, seed), random_mask(TOPOLOGY, seed + 9)
    leaves = Alphas(*(a.requires_grad_() for a in alphas.tensors()))

    coefficients = relax(leaves, mask, TOPOLOGY, 0.5, relaxation, noise(seed))
    scale = torch.randn(coefficients["normal"].shape, generator=generator(1), dtype=torch.float64)
    sum((coefficients[kind] * scale).sum() for kind in CELL_TYPES).backward()

    for kind in CELL_TYPES:
        op_alive = mask.cell(kind)[0]
        assert torch.all(coefficients[kind][~op_alive] == 0)
        if relaxation != "gumbel-hard":
            assert torch.all(coefficients[kind][op_alive] > 0)
        assert torch.all(leaves.cell(kind)[0].grad[~op_alive] == 0)
        if relaxation != "softmax":
            pair_alive = mask.cell(kind)[1]
            assert torch.all(leaves.cell(kind)[1].grad[~pair_alive] == 0)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_gradient_of_a_masked_softmax_is_its_jacobian(seed: int) -> None:
    logits = torch.randn(6, generator=generator(seed), dtype=torch.float64)
    alive = torch.tensor([True, False, True, True, False, True])
    p = torch.where(alive, logits.exp(), 0.0)
    p = p / p.sum()

    jacobian = torch.autograd.functional.jacobian(lambda x: masked_softmax(x, alive), logits)

    torch.testing.assert_close(jacobian, torch.diag(p) - torch.outer(p, p))


@pytest.mark.parametrize("seed", SEEDS)
def test_cold_is_one_hot_and_hot_is_uniform(seed: int) -> None:
    alphas, mask = random_alphas(TOPOLOGY, seed), random_mask(TOPOLOGY, seed + 20)
    for kind in CELL_TYPES:
        logits, alive = alphas.cell(kind)[0], mask.cell(kind)[0]
        in_use = alive.any(dim=1)

        cold = masked_softmax(logits / 1e-4, alive)
        hot = masked_softmax(logits / 1e6, alive)

        best = logits.masked_fill(~alive, -torch.inf).argmax(dim=1)
        assert torch.equal(cold.argmax(dim=1)[in_use], best[in_use])
        torch.testing.assert_close(cold.amax(dim=1)[in_use], torch.ones(int(in_use.sum())).double())
        uniform = alive.double() / alive.sum(dim=1, keepdim=True).clamp(min=1)
        torch.testing.assert_close(hot, uniform, atol=1e-4, rtol=0)


def test_every_node_has_two_inputs_when_cold() -> None:
    coefficients = relax(random_alphas(TOPOLOGY, 0), Mask.full(TOPOLOGY), TOPOLOGY, 1e-4)

    for matrix in coefficients.values():
        for edges in TOPOLOGY.node_edges:
            assert (matrix[list(edges)] > 0.5).sum() == 2


def test_extreme_logits_stay_finite() -> None:
    big = Alphas(*(1e4 * a.sign() for a in random_alphas(TOPOLOGY, 3).tensors()))
    for mask in (Mask.full(TOPOLOGY), random_mask(TOPOLOGY, 4)):
        coefficients = relax(big, mask, TOPOLOGY, 1e-3, "gumbel", noise(5))
        assert all(torch.isfinite(matrix).all() for matrix in coefficients.values())
        sums = torch.stack([matrix.sum() for matrix in coefficients.values()])
        torch.testing.assert_close(sums, torch.full((2,), 6.0).double())  # three nodes of two


def test_gumbel_noise_draws_operations_by_their_probability() -> None:
    logits = torch.tensor([0.3, -1.0, 0.8, 0.1], dtype=torch.float64)
    topology = Topology(1, TOPOLOGY.operations)
    draws = 4000
    source = generator(11)
    counts = torch.zeros(4, dtype=torch.float64)
    for _ in range(draws // 2):
        for row in Noise.draw(topology, source, torch.float64).op_normal:
            counts[(logits + row).argmax()] += 1

    p = logits.softmax(dim=0)
    five_sigma = 5 * torch.sqrt(p * (1 - p) / draws)
    assert torch.all((counts / draws - p).abs() < five_sigma)


@pytest.mark.parametrize("seed", SEEDS)
def test_gumbel_hard_is_one_hot_with_the_gradient_of_the_soft_sample(seed: int) -> None:
    mask, drawn, tau = random_mask(TOPOLOGY, seed + 30), noise(seed), 0.8
    leaves = Alphas(*(a.requires_grad_() for a in random_alphas(TOPOLOGY, seed).tensors()))
    logits, alive = leaves.op_normal, mask.op_normal

    hard = relax(leaves, mask, TOPOLOGY, tau, "gumbel-hard", drawn)["normal"]

    for edges in TOPOLOGY.node_edges:
        own = hard[list(edges)]
        assert sorted(own.flatten().tolist(), reverse=True)[:3] == [1.0, 1.0, 0.0]
        assert (own.sum(dim=1) <= 1).all()
    chosen = hard.detach() == 1
    soft = masked_softmax((logits + drawn.op_normal) / tau, alive)
    ours = torch.autograd.grad(hard[chosen].sum(), logits, retain_graph=True)[0]
    # u of a chosen edge is 1, so the sum over chosen entries has the gradient of their soft z
    theirs = torch.autograd.grad(soft[chosen].sum(), logits)[0]
    torch.testing.assert_close(ours, theirs)


def test_softmax_has_no_noise_and_no_pairs() -> None:
    alphas = random_alphas(TOPOLOGY, 1)

    with_noise = relax(alphas, Mask.full(TOPOLOGY), TOPOLOGY, 1.0, "softmax", noise(1))

    for kind in CELL_TYPES:
        torch.testing.assert_close(with_noise[kind], alphas.cell(kind)[0].softmax(dim=1))


def test_pairs_compete_within_their_node_only() -> None:
    logits = random_alphas(TOPOLOGY, 2).input_normal

    q = pair_probabilities(logits, torch.ones(10, dtype=torch.bool), TOPOLOGY)

    assert [len(own) for own in TOPOLOGY.node_pairs] == [1, 3, 6]
    for own in TOPOLOGY.node_pairs:
        torch.testing.assert_close(q[list(own)], logits[list(own)].softmax(dim=0))


def test_noise_is_a_function_of_the_generator() -> None:
    assert torch.equal(noise(1).op_normal, noise(1).op_normal)
    assert not torch.equal(noise(1).op_normal, noise(2).op_normal)
    assert not torch.equal(noise(1).op_normal, noise(1).op_reduce)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("exponential", [8.0, 4.0, 2.0, 1.0, 1.0]),
        ("linear", [8.0, 17 / 3, 10 / 3, 1.0, 1.0]),
        ("constant", [8.0] * 5),
    ],
)
def test_the_temperature_falls_to_its_end_and_stays(kind: str, expected: list[float]) -> None:
    schedule = TemperatureSchedule(kind, start=8.0, end=1.0, rounds=4)

    assert [schedule(r) for r in range(1, 6)] == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(20))
def test_gumbel_hard_is_exactly_one_hot_in_single_precision(seed: int) -> None:
    alphas = Alphas(*(a.float() for a in random_alphas(TOPOLOGY, seed).tensors()))
    drawn = Noise.draw(TOPOLOGY, generator(seed), torch.float32)

    matrices = relax(alphas, Mask.full(TOPOLOGY), TOPOLOGY, 0.9, "gumbel-hard", drawn)

    for matrix in matrices.values():
        assert matrix.sum() == 6  # two inputs for each of three nodes
        assert set(matrix.unique().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize("seed", SEEDS)
def test_gumbel_hard_passes_the_gradient_of_the_soft_pairs(seed: int) -> None:
    drawn, tau = noise(seed), 0.8
    leaves = Alphas(*(a.requires_grad_() for a in random_alphas(TOPOLOGY, seed).tensors()))
    scale = torch.randn(9, 4, generator=generator(seed), dtype=torch.float64)

    hard = relax(leaves, Mask.full(TOPOLOGY), TOPOLOGY, tau, "gumbel-hard", drawn)["normal"]
    ours = torch.autograd.grad((hard * scale).sum(), leaves.input_normal)[0]

    # With z one-hot, the loss is linear in s: each pair weighs the two operations it lets in.
    operation = (leaves.op_normal + drawn.op_normal).argmax(dim=1)
    expected = torch.zeros(10, dtype=torch.float64)
    for own in map(list, TOPOLOGY.node_pairs):
        s = ((leaves.input_normal + drawn.input_normal)[own].detach() / tau).softmax(dim=0)
        weight = torch.stack([sum(scale[e, operation[e]] for e in TOPOLOGY.pairs[k]) for k in own])
        expected[own] = s * (weight - (s * weight).sum()) / tau
    torch.testing.assert_close(ours, expected)


def test_evaluation_of_gumbel_hard_is_soft() -> None:
    alphas, mask = random_alphas(TOPOLOGY, 6), random_mask(TOPOLOGY, 6)

    hard = relax(alphas, mask, TOPOLOGY, 0.8, "gumbel-hard")

    soft = relax(alphas, mask, TOPOLOGY, 0.8, "gumbel")
    for kind in CELL_TYPES:
        assert torch.equal(hard[kind], soft[kind])
        assert ((hard[kind] > 0) & (hard[kind] < 1)).any()


@pytest.mark.parametrize("relaxation", ["softmax", "gumbel", "gumbel-hard"])
def test_a_dead_edge_is_zero_even_where_a_pair_lets_it_in(relaxation: str) -> None:
    full = Mask.full(TOPOLOGY)
    alive = full.op_normal.clone()
    alive[1] = False
    mask = Mask(alive, full.op_reduce, full.input_normal, full.input_reduce)

    matrix = relax(random_alphas(TOPOLOGY, 7), mask, TOPOLOGY, 0.7, relaxation, noise(7))["normal"]

    assert torch.equal(matrix[1], torch.zeros(4, dtype=torch.float64))
    assert matrix[0].sum() == pytest.approx(1.0)


@pytest.mark.parametrize("relaxation", ["softmax", "gumbel"])
@pytest.mark.parametrize("seed", SEEDS)
def test_the_limits_of_the_coefficients(relaxation: str, seed: int) -> None:
    alphas, full = random_alphas(TOPOLOGY, seed), Mask.full(TOPOLOGY)
    pairs = relaxation != "softmax"

    cold = relax(alphas, full, TOPOLOGY, 1e-5, relaxation)["reduce"]
    hot = relax(alphas, full, TOPOLOGY, 1e7, relaxation)["reduce"]

    expected = torch.zeros(9, 4, dtype=torch.float64)
    for own, edges in zip(TOPOLOGY.node_pairs, TOPOLOGY.node_edges, strict=True):
        best = max(own, key=lambda k: float(alphas.input_reduce[k]))
        for edge in TOPOLOGY.pairs[best] if pairs else edges:
            expected[edge, alphas.op_reduce[edge].argmax()] = 1.0
        share = 2 / len(edges) if pairs else 1.0  # of k inputs every pair lets in two
        torch.testing.assert_close(
            hot[list(edges)], torch.full((len(edges), 4), share / 4).double(), atol=1e-5, rtol=0
        )
    torch.testing.assert_close(cold, expected)


@pytest.mark.parametrize("seed", range(3))
def test_gumbel_hard_draws_pairs_and_operations_by_their_probability(seed: int) -> None:
    topology = Topology(2, ("skip_connect", "avg_pool_3x3", "sep_conv_3x3"))
    alphas, mask = random_alphas(topology, seed, scale=0.7), Mask.full(topology)
    draws, source = 800, generator(1000 + seed)
    counts = torch.zeros(5, 3, dtype=torch.float64)

    for _ in range(draws):
        drawn = Noise.draw(topology, source, torch.float64)
        counts += relax(alphas, mask, topology, 0.5, "gumbel-hard", drawn)["normal"]

    q = torch.cat([alphas.input_normal[:1].softmax(0), alphas.input_normal[1:].softmax(0)])
    u = torch.stack([q[0], q[0], q[1] + q[2], q[1] + q[3], q[2] + q[3]])
    p = u[:, None] * alphas.op_normal.softmax(dim=1)
    assert torch.all((counts / draws - p).abs() < 5 * torch.sqrt(p * (1 - p) / draws))


@pytest.mark.parametrize("kind", ["exponential", "linear"])
def test_the_temperature_never_rises_and_one_round_is_enough(kind: str) -> None:
    values = [TemperatureSchedule(kind, 5.0, 0.03, 40)(r) for r in range(1, 60)]

    assert all(after < before for before, after in pairwise(values[:40]))
    assert values[0] == pytest.approx(5.0)
    assert values[39:] == [0.03] * 20
    assert TemperatureSchedule(kind, 5.0, 0.03, 1)(1) == pytest.approx(5.0)
    assert TemperatureSchedule(kind, 5.0, 0.03, 1)(2) == 0.03
