"""Genotypes as files: what is written is read back, and nothing else is."""

import copy
import dataclasses
import json
import random
from typing import Any

import pytest
import torch
from helpers import make_shape, one_hot_mask, random_images, random_parameters

from fedmetanas.errors import GenotypeError
from fedmetanas.search_space.alphas import Mask, Topology
from fedmetanas.search_space.complexity import count_macs, count_parameters
from fedmetanas.search_space.genotype import Genotype, load_weights
from fedmetanas.search_space.supernet import NetworkShape, initial_weights

SHAPE = make_shape(nodes=2, layers=3)


def genotype(seed: int = 0) -> Genotype:
    return Genotype.from_mask(SHAPE, one_hot_mask(SHAPE.topology, seed))


@pytest.mark.parametrize("seed", range(5))
def test_json_gives_the_same_network_back(seed: int) -> None:
    written = genotype(seed)
    images, _ = random_images(SHAPE, seed, dtype=torch.float32)

    read = Genotype.from_json(written.to_json())

    assert (read.normal, read.reduce) == (written.normal, written.reduce)
    first, second = written.network(), read.network()
    weights = initial_weights(first, torch.Generator().manual_seed(seed))
    load_weights(first, weights)
    load_weights(second, weights)
    assert torch.equal(first(images), second(images))


def test_a_mask_that_is_not_one_hot_has_no_genotype() -> None:
    with pytest.raises(ValueError, match="not one-hot"):
        Genotype.from_mask(SHAPE, Mask.full(SHAPE.topology))


def changed(path: list[Any], value: Any) -> str:
    tree = copy.deepcopy(json.loads(genotype().to_json()))
    at = tree
    for step in path[:-1]:
        at = at[step]
    at[path[-1]] = value
    return json.dumps(tree)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "[" * 100_000,
        genotype().to_json()[:-20],
        changed(["format"], "another"),
        changed(["channels"], 0),
        changed(["channels"], True),
        changed(["channels"], 4.0),
        changed(["layers"], 10**9),
        changed(["classes"], None),
        changed(["norm"], "layer"),
        changed(["normal"], []),
        changed(["normal"], {}),
        changed(["normal"], [[["skip_connect", 0], ["skip_connect", 1]]]),
        changed(["normal", 0], [["skip_connect", 0]]),
        changed(["normal", 0, 0], "skip_connect"),
        changed(["normal", 0, 0], ["__import__('os')", 0]),
        changed(["normal", 0, 0], [["skip_connect"], 0]),
        changed(["normal", 0, 0], ["skip_connect", 2]),
        changed(["normal", 0, 0], ["skip_connect", -1]),
        changed(["normal", 0, 0], ["skip_connect", True]),
        changed(["normal", 0, 0], ["skip_connect", 0.0]),
        changed(["reduce", 1], [["skip_connect", 1], ["max_pool_3x3", 1]]),
    ],
)
def test_what_is_not_a_genotype_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(GenotypeError) as caught:
        Genotype.from_json(text)

    assert len(str(caught.value).splitlines()) == 1


def test_weights_of_another_network_are_refused() -> None:
    network = genotype().network()
    weights = initial_weights(network, torch.Generator().manual_seed(0))
    missing = {n: w for n, w in weights.items() if n != "stem.0.weight"}
    wrong = [
        missing,
        {**weights, "../extra": torch.zeros(1)},
        {**weights, "stem.0.weight": weights["stem.0.weight"][:-1]},
        {**weights, "stem.0.weight": weights["stem.0.weight"].double()},
    ]

    for candidate in wrong:
        with pytest.raises(GenotypeError):
            load_weights(network, candidate)
    load_weights(network, weights)
    assert torch.equal(network.stem[0].weight, weights["stem.0.weight"])


def test_macs_and_parameters_by_hand() -> None:
    # One cell of one node, C = 4, 8x8 in one channel: skip on one edge, sep 3x3 on the other.
    shape = NetworkShape(1, 3, 4, 1, Topology(1, ("skip_connect", "sep_conv_3x3")), "group")
    choices = ((("skip_connect", 0), ("sep_conv_3x3", 1)),)
    tiny = Genotype(shape, choices, choices)
    stem, inputs = 9 * 12, 2 * 12 * 4
    separable = 2 * (9 * 4 + 4 * 4)
    classifier = 4 * 3

    weights = initial_weights(tiny.network(), torch.Generator().manual_seed(0))

    assert count_parameters(weights) == stem + inputs + separable + classifier + 3
    assert count_macs(tiny, (8, 8)) == 64 * (stem + inputs + separable) + classifier


def test_parameters_of_a_supernet_are_those_of_its_operations() -> None:
    network, theta = random_parameters(SHAPE, 0)

    assert theta.weights.keys() == dict(network.named_parameters()).keys()


@pytest.mark.parametrize("seed", range(5))
def test_what_is_read_equals_what_was_written_but_for_unused_operations(seed: int) -> None:
    written = genotype(seed)

    read = Genotype.from_json(written.to_json())

    used = {name for cell in (read.normal, read.reduce) for node in cell for name, _ in node}
    assert read.shape.topology.operations == tuple(
        name for name in SHAPE.topology.operations if name in used
    )
    assert dataclasses.replace(read.shape, topology=SHAPE.topology) == SHAPE
    assert Genotype.from_json(read.to_json()) == read


def test_two_operations_on_one_edge_are_no_two_inputs() -> None:
    mask = one_hot_mask(SHAPE.topology, 0)
    ops = mask.op_normal.clone()
    ops[:2] = False
    ops[0, :2] = True  # node 0: twice its first input, never its second

    with pytest.raises(ValueError, match="a normal node"):
        Genotype.from_mask(SHAPE, Mask(ops, mask.op_reduce, mask.input_normal, mask.input_reduce))


def refused(text: str) -> str:
    with pytest.raises(GenotypeError) as caught:
        Genotype.from_json(text)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def test_every_truncation_is_refused() -> None:
    text = genotype().to_json().rstrip()

    for length in range(len(text)):
        refused(text[:length])
    assert Genotype.from_json(text) is not None


@pytest.mark.parametrize("key", list(json.loads(genotype().to_json())))
def test_a_missing_key_is_refused_by_name(key: str) -> None:
    tree = json.loads(genotype().to_json())
    del tree[key]

    assert key in refused(json.dumps(tree))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"layers": 3', '"layers": 1e400'),
        ('"layers": 3', '"layers": NaN'),
        ('"layers": 3', '"layers": -3'),
        ('"layers": 3', '"layers": "3"'),
        ('"layers": 3', '"layers": ' + 5000 * "9"),
        ('"norm": "group"', '"norm": ["group"]'),
        ('"norm": "group"', '"norm": "group\\n"'),
    ],
)
def test_a_strange_value_is_refused(old: str, new: str) -> None:
    text = genotype().to_json()
    assert old in text

    refused(text.replace(old, new))


@pytest.mark.parametrize("predecessor", [False, 0.0, None, "0", [0], 10**30, -1])
def test_a_predecessor_is_a_number_of_an_earlier_node(predecessor: Any) -> None:
    valid = changed(["normal", 0], [["skip_connect", 0], ["skip_connect", 1]])
    assert Genotype.from_json(valid).normal[0] == (("skip_connect", 0), ("skip_connect", 1))

    text = changed(["normal", 0], [["skip_connect", predecessor], ["skip_connect", 1]])

    assert "predecessor" in refused(text)


@pytest.mark.parametrize("name", ["", "a\nb", "\ud800", "x" * 10**6, "Skip_connect", 7, None])
def test_an_unknown_operation_is_refused_in_a_short_line(name: Any) -> None:
    message = refused(changed(["reduce", 1, 0], [name, 0]))

    assert "reduce, node 1" in message
    assert len(message) < 300


def test_a_cell_of_too_many_nodes_is_refused() -> None:
    tree = json.loads(genotype().to_json())
    nodes = [[["skip_connect", 0], ["skip_connect", 1]]] * 101
    tree["normal"] = tree["reduce"] = nodes

    assert "100 nodes" in refused(json.dumps(tree))


def of_size(channels: int, layers: int, nodes: int, classes: int) -> str:
    cell = [[["sep_conv_5x5", 0], ["sep_conv_5x5", 1]]] * nodes
    sizes = {"channels": channels, "layers": layers, "classes": classes}
    tree = json.loads(genotype().to_json())
    return json.dumps({**tree, **sizes, "normal": cell, "reduce": cell})


@pytest.mark.parametrize(
    "size", [(1024, 200, 100, 100_000), (1024, 20, 4, 10), (128, 20, 4, 100_000), (64, 200, 50, 10)]
)
def test_a_network_that_no_memory_holds_is_refused(size: tuple[int, int, int, int]) -> None:
    assert "weights" in refused(of_size(*size))


def test_a_large_network_is_read() -> None:
    assert Genotype.from_json(of_size(128, 20, 4, 1000)).shape.channels == 128


def test_a_damaged_file_is_read_or_refused_and_nothing_else() -> None:
    text, source, refusals = genotype().to_json(), random.Random(3), 0
    for _ in range(500):
        at = source.randrange(len(text))
        damaged = text[:at] + source.choice('0719-.,:"[]{}eNtx \\\n') + text[at + 1 :]
        try:
            read = Genotype.from_json(damaged)
        except GenotypeError:
            refusals += 1
        else:
            assert Genotype.from_json(read.to_json()) == read
    assert refusals > 250


def test_macs_of_a_reduction_on_an_odd_size_by_hand() -> None:
    # Two cells, C = 4: layers 0 and 1 of 2 are reductions; 9x9, then 5x5, then 3x3.
    shape = NetworkShape(3, 5, 4, 2, Topology(1, ("skip_connect", "dil_conv_5x5")), "batch")
    choices = ((("skip_connect", 0), ("dil_conv_5x5", 1)),)
    tiny = Genotype(shape, choices, choices)
    stem = 81 * 9 * 3 * 12

    def halve(side: int, inputs: int, c: int) -> int:  # half the channels each, even and odd
        return ((side + 1) // 2) ** 2 * inputs * c // 2 + (side // 2) ** 2 * inputs * c // 2

    def edges(side: int, c: int) -> int:
        return halve(side, c, c) + ((side + 1) // 2) ** 2 * (25 * c + c * c)

    first = 81 * 12 * 8 + 81 * 12 * 8 + edges(9, 8)
    second = halve(9, 12, 16) + 25 * 8 * 16 + edges(5, 16)
    assert shape.cell_types() == ["reduce", "reduce"]
    expected = stem + first + second + 16 * 5
    assert count_macs(tiny, (9, 9)) == expected
