"""Genotypes as files: what is written is read back, and nothing else is."""

import copy
import json
from typing import Any

import pytest
import torch
from helpers import make_shape, one_hot_mask, random_images, random_parameters

from search_space.alphas import Mask, Topology
from search_space.complexity import count_macs, count_parameters
from search_space.genotype import Genotype, GenotypeError, load_weights
from search_space.supernet import NetworkShape, initial_weights

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
