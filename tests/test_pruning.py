"""Soft pruning: only ever downwards, and never so far that a node starves."""

import math

import pytest
import torch
from helpers import random_alphas, random_mask

from fedmetanas.search_space.alphas import CELL_TYPES, Alphas, Mask, Topology
from fedmetanas.search_space.pruning import entropy, final_cut, soft_prune

TOPOLOGY = Topology(3, ("skip_connect", "avg_pool_3x3", "sep_conv_3x3", "dil_conv_3x3"))


def assert_valid(mask: Mask) -> None:
    for kind in CELL_TYPES:
        ops, pairs = mask.cell(kind)
        for own in TOPOLOGY.node_pairs:
            assert pairs[list(own)].any()
        living = {e for k, pair in enumerate(TOPOLOGY.pairs) if pairs[k] for e in pair}
        assert {e for e in range(len(TOPOLOGY.edges)) if ops[e].any()} == living


@pytest.mark.parametrize("seed", range(20))
def test_pruning_only_ever_kills_and_keeps_the_mask_valid(seed: int) -> None:
    mask = random_mask(TOPOLOGY, seed)
    before = [t.clone() for t in mask.tensors()]
    alphas = random_alphas(TOPOLOGY, seed + 100, scale=2.0)

    pruned = soft_prune(alphas, mask, TOPOLOGY, 0.5, 0.2, 0.2)

    assert_valid(mask)
    assert_valid(pruned)
    for new, old in zip(pruned.tensors(), mask.tensors(), strict=True):
        assert torch.all(new <= old)
    assert all(torch.equal(a, b) for a, b in zip(mask.tensors(), before, strict=True))


def test_what_is_improbable_dies_and_nothing_else() -> None:
    alphas = random_alphas(TOPOLOGY, 1)
    probabilities = torch.softmax(alphas.op_reduce / 0.7, dim=1)

    pruned = soft_prune(alphas, Mask.full(TOPOLOGY), TOPOLOGY, 0.7, 0.15, 0.0)

    assert torch.equal(pruned.op_reduce, probabilities >= 0.15)
    assert 0 < pruned.op_reduce.sum() < pruned.op_reduce.numel()
    assert pruned.input_reduce.all()


def test_none_weakens_an_edge_and_is_never_what_is_left_of_it() -> None:
    topology = Topology(1, ("skip_connect", "none", "sep_conv_3x3"))
    rows = torch.tensor([[0.03, 0.95, 0.02], [0.3, 0.69, 0.01]], dtype=torch.float64).log()
    pair = torch.zeros(1, dtype=torch.float64)
    alphas = Alphas(rows, rows.flip(0), pair, pair)

    pruned = soft_prune(alphas, Mask.full(topology), topology, 1.0, 0.05, 0.05)
    cold = soft_prune(alphas, Mask.full(topology), topology, 0.001, 0.05, 0.05)
    cut = final_cut(alphas, Mask.full(topology), topology)

    assert pruned.op_normal.tolist() == [[True, False, False], [True, True, False]]
    assert pruned.op_reduce.tolist() == [[True, True, False], [True, False, False]]
    for decided in (cold, cut, final_cut(alphas, pruned, topology)):
        for ops in (decided.op_normal, decided.op_reduce):
            assert ops.tolist() == [[True, False, False]] * 2


def test_a_dead_competitor_does_not_count() -> None:
    # Alone against the dead, 0.2 of the mass is all of it.
    logits = torch.log(torch.tensor([[0.7, 0.2, 0.06, 0.04]], dtype=torch.float64)).repeat(9, 1)
    full = Mask.full(TOPOLOGY)
    alive = full.op_normal.clone()
    alive[:, 0] = False
    pairs = torch.zeros(10, dtype=torch.float64)
    alphas = Alphas(logits, logits, pairs, pairs)
    mask = Mask(alive, full.op_reduce, full.input_normal, full.input_reduce)

    pruned = soft_prune(alphas, mask, TOPOLOGY, 1.0, 0.15, 0.0)

    assert pruned.op_normal[0].tolist() == [False, True, True, False]
    assert pruned.op_reduce[0].tolist() == [True, True, False, False]


def test_an_edge_dies_with_its_last_pair() -> None:
    alphas = random_alphas(TOPOLOGY, 2)
    pairs = torch.full((10,), -5.0, dtype=torch.float64)
    pairs[1] = 5.0  # node 1: the pair of its edges 2 and 3; edge 4 is in no other living pair
    alphas = Alphas(alphas.op_normal, alphas.op_reduce, pairs, alphas.input_reduce)

    pruned = soft_prune(alphas, Mask.full(TOPOLOGY), TOPOLOGY, 1.0, 0.0, 0.1)

    assert TOPOLOGY.pairs[1] == (2, 3)
    assert pruned.op_normal[2:5].any(dim=1).tolist() == [True, True, False]


@pytest.mark.parametrize("seed", range(10))
def test_the_last_cut_keeps_the_strongest_alive(seed: int) -> None:
    alphas, mask = random_alphas(TOPOLOGY, seed), random_mask(TOPOLOGY, seed + 7)

    cut = final_cut(alphas, mask, TOPOLOGY)

    assert_valid(cut)
    for kind in CELL_TYPES:
        ops, pairs = cut.cell(kind)
        for own in map(list, TOPOLOGY.node_pairs):
            living = [k for k in own if mask.cell(kind)[1][k]]
            best = max(living, key=lambda k: float(alphas.cell(kind)[1][k]))
            assert [k for k in own if pairs[k]] == [best]
            for edge in TOPOLOGY.pairs[best]:
                names = [o for o in range(4) if mask.cell(kind)[0][edge, o]]
                strongest = max(names, key=lambda o: float(alphas.cell(kind)[0][edge, o]))
                assert ops[edge].nonzero().flatten().tolist() == [strongest]
    again = final_cut(alphas, cut, TOPOLOGY)
    assert all(torch.equal(a, b) for a, b in zip(again.tensors(), cut.tensors(), strict=True))


def test_entropy_is_one_when_undecided_and_zero_when_decided() -> None:
    equal = Alphas(*(torch.zeros_like(a) for a in random_alphas(TOPOLOGY, 0).tensors()))
    alphas = random_alphas(TOPOLOGY, 0)
    p = torch.softmax(torch.cat([alphas.op_normal, alphas.op_reduce]) / 0.8, dim=1)
    by_hand = float(-(p * p.log()).sum(dim=1).mean()) / math.log(4)

    assert entropy(equal, Mask.full(TOPOLOGY), TOPOLOGY, 1.0) == pytest.approx(1.0)
    assert entropy(alphas, Mask.full(TOPOLOGY), TOPOLOGY, 0.8) == pytest.approx(by_hand)
    cut = final_cut(alphas, Mask.full(TOPOLOGY), TOPOLOGY)
    assert entropy(alphas, cut, TOPOLOGY, 1.0) == pytest.approx(0.0)


@pytest.mark.parametrize("seed", range(5))
def test_what_dies_by_brute_force_at_the_rounds_temperature(seed: int) -> None:
    alphas, mask, tau = random_alphas(TOPOLOGY, seed), random_mask(TOPOLOGY, seed + 40), 0.6
    op_threshold, pair_threshold = 0.25, 0.3

    pruned = soft_prune(alphas, mask, TOPOLOGY, tau, op_threshold, pair_threshold)

    def survivors(logits: torch.Tensor, alive: list[int], threshold: float) -> set[int]:
        mass = {k: math.exp(float(logits[k]) / tau) for k in alive}
        probable = {k for k in alive if mass[k] / sum(mass.values()) >= threshold}
        return probable | {max(alive, key=lambda k: mass[k])}

    for kind in CELL_TYPES:
        (op_logits, pair_logits), (ops, pairs) = alphas.cell(kind), mask.cell(kind)
        kept_pairs = set()
        for own in TOPOLOGY.node_pairs:
            living = [k for k in own if pairs[k]]
            kept_pairs |= survivors(pair_logits, living, pair_threshold)
        used = {edge for k in kept_pairs for edge in TOPOLOGY.pairs[k]}
        kept_ops = {
            (edge, o)
            for edge in used
            for o in survivors(op_logits[edge], ops[edge].nonzero()[:, 0].tolist(), op_threshold)
        }
        new_ops, new_pairs = pruned.cell(kind)
        assert set(new_pairs.nonzero()[:, 0].tolist()) == kept_pairs
        assert set(map(tuple, new_ops.nonzero().tolist())) == kept_ops


@pytest.mark.parametrize("seed", range(5))
def test_thresholds_of_zero_change_nothing(seed: int) -> None:
    mask = random_mask(TOPOLOGY, seed)

    pruned = soft_prune(random_alphas(TOPOLOGY, seed + 60), mask, TOPOLOGY, 0.5, 0.0, 0.0)

    assert not all(t.all() for t in mask.tensors())
    assert all(torch.equal(a, b) for a, b in zip(pruned.tensors(), mask.tensors(), strict=True))


def test_of_equals_the_last_cut_keeps_the_first() -> None:
    equal = Alphas(*(torch.full_like(a, 0.7) for a in random_alphas(TOPOLOGY, 0).tensors()))

    cut = final_cut(equal, Mask.full(TOPOLOGY), TOPOLOGY)

    assert_valid(cut)
    for kind in CELL_TYPES:
        ops, pairs = cut.cell(kind)
        assert pairs.nonzero()[:, 0].tolist() == [own[0] for own in TOPOLOGY.node_pairs]
        assert ops.sum(dim=1).max() == 1
        assert ops[:, 0].sum() == 6


def test_entropy_is_the_mean_over_the_edges_in_use() -> None:
    alphas, mask = random_alphas(TOPOLOGY, 5), random_mask(TOPOLOGY, 0)
    values = []
    for kind in CELL_TYPES:
        for logits, alive in zip(alphas.cell(kind)[0], mask.cell(kind)[0], strict=True):
            if alive.any():
                p = torch.softmax(logits[alive] / 0.8, dim=0)
                values.append(float(-(p * p.log()).sum()) / math.log(4))

    assert len(values) < 18, "choose a mask with a dead edge"
    expected = sum(values) / len(values)
    assert entropy(alphas, mask, TOPOLOGY, 0.8) == pytest.approx(expected)


def test_a_single_operation_is_decided() -> None:
    topology = Topology(2, ("skip_connect",))

    assert entropy(random_alphas(topology, 0), Mask.full(topology), topology, 1.0) == 0.0


@pytest.mark.parametrize("limit", [0, 1, 3])
@pytest.mark.parametrize("seed", range(10))
def test_a_limit_of_edges_without_weights_by_brute_force(seed: int, limit: int) -> None:
    weighty = [2, 3]
    alphas, mask = random_alphas(TOPOLOGY, seed, 2.0), Mask.full(TOPOLOGY)

    free = final_cut(alphas, mask, TOPOLOGY)
    cut = final_cut(alphas, mask, TOPOLOGY, limit)

    assert_valid(cut)
    for kind in CELL_TYPES:
        logits, (ops, pairs), (limited, same_pairs) = (x.cell(kind) for x in (alphas, free, cut))
        assert torch.equal(pairs, same_pairs)
        edges = [e for e in range(len(TOPOLOGY.edges)) if ops[e].any()]
        without = [e for e in edges if not ops[e, weighty].any()]
        # Those whose best convolution is furthest behind keep what they have.
        without.sort(key=lambda e: float(logits[0][e].max() - logits[0][e, weighty].max()))
        changed = without[: max(0, len(without) - limit)]
        for edge in edges:
            (kept,) = limited[edge].nonzero().flatten().tolist()
            among = weighty if edge in changed else range(4)
            assert kept == max(among, key=lambda o: float(logits[0][edge, o]))


@pytest.mark.parametrize("seed", range(20))
def test_the_limit_holds_over_rounds_in_which_edges_are_decided_one_by_one(seed: int) -> None:
    mask = Mask.full(TOPOLOGY)
    for number, tau in enumerate((1.0, 0.7, 0.4, 0.2, 0.05)):
        alphas = random_alphas(TOPOLOGY, seed + 30 * number, 0.5)
        before, mask = mask, soft_prune(alphas, mask, TOPOLOGY, tau, 0.3, 0.2, 2)
        assert_valid(mask)
        assert all(torch.all(a <= b) for a, b in zip(mask.tensors(), before.tensors(), strict=True))
    mask = final_cut(alphas, mask, TOPOLOGY, 2)

    for kind in CELL_TYPES:
        ops, _ = mask.cell(kind)
        assert int((ops[:, :2].any(dim=1)).sum()) <= 2


def test_a_limit_that_no_operation_can_keep_to_changes_nothing() -> None:
    topology = Topology(2, ("skip_connect", "max_pool_3x3"))
    alphas = random_alphas(topology, 3)
    free = final_cut(alphas, Mask.full(topology), topology)

    cut = final_cut(alphas, Mask.full(topology), topology, 0)

    assert all(torch.equal(a, b) for a, b in zip(cut.tensors(), free.tensors(), strict=True))
