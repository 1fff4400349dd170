"""A client's round: what it trains on, in which order, what it leaves alone."""

import math
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from flwr.client import NumPyClient
from tiny import experiment_of, random_alphas

from fedmetanas.client.local_data import augmented, batches
from fedmetanas.client.numpy_client import MetaClient
from fedmetanas.experiments.data.registry import Images
from fedmetanas.experiments.experiment import Experiment
from fedmetanas.search_space.alphas import Mask
from fedmetanas.search_space.operations import OPERATIONS
from fedmetanas.search_space.pruning import final_cut
from fedmetanas.search_space.supernet import alive_names
from fedmetanas.strategies import wire

Arrays = list[np.ndarray[Any, Any]]

CLIENT = 1
LAYERS = "search.layers=3"  # so that there is a normal cell among the reduce cells
ONLY = ("skip_connect", "sep_conv_3x3", "avg_pool_3x3")


def experiment(*overrides: str) -> Experiment:
    return experiment_of(LAYERS, *overrides)


def start(opened: Experiment) -> tuple[list[str], Arrays]:
    """Return what the server sends first: keys and arrays."""
    arrays = wire.to_arrays(*opened.initial_parameters())
    return list(arrays), [array.copy() for array in arrays.values()]


def config_of(opened: Experiment, server_round: int = 2, tau: float = 0.5) -> dict[str, Any]:
    return {
        "server-round": server_round,
        **wire.round_config(tau, Mask.full(opened.topology)),
    }


def fit(opened: Experiment, config: dict[str, Any], partition_id: int = CLIENT) -> Arrays:
    keys, arrays = start(opened)
    trained, _, _ = MetaClient(opened, partition_id, keys).fit(arrays, config)
    return list(trained)


def bits(arrays: Arrays) -> bytes:
    return b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)


def moved(opened: Experiment, trained: Arrays) -> dict[str, bool]:
    keys, arrays = start(opened)
    return {k: bits([a]) != bits([t]) for k, a, t in zip(keys, arrays, trained, strict=True)}


def with_noise(opened: Experiment, indices: np.ndarray[Any, Any]) -> Experiment:
    """Return the experiment with other pixels in some of the training images."""
    train = opened.dataset.train
    pixels = np.array(train.images)
    rng = np.random.default_rng(5)
    pixels[indices] = rng.integers(0, 256, pixels[indices].shape, dtype=np.uint8)
    return replace(opened, dataset=replace(opened.dataset, train=Images(pixels, train.labels)))


# Batches


def numbered(opened: Experiment) -> Experiment:
    """Return the experiment with images that say in their first three pixels which they are."""
    train = opened.dataset.train
    pixels = np.zeros_like(train.images)
    for place in range(3):
        pixels[:, 0, place, 0] = np.arange(len(pixels)) // 10**place % 10 * 25
    return replace(opened, dataset=replace(opened.dataset, train=Images(pixels, train.labels)))


def indices_of(batch: torch.Tensor) -> list[int]:
    digits = (((batch[:, 0, 0, :3] + 1) * 127.5).round() / 25).round().long()
    return (digits @ torch.tensor([1, 10, 100])).tolist()


def drawn(
    count: int, size: int, part: np.ndarray[Any, Any], server_round: int = 1, client: int = CLIENT
) -> list[list[int]]:
    """Return which images the first batches hold."""
    opened = numbered(experiment(f"client.batch_size={size}", "data.augment=none"))
    stream = batches(opened, part, server_round, client, "query")
    return [indices_of(images) for images, _ in islice(stream, count)]


def test_batches_hold_images_of_the_part_with_their_labels() -> None:
    opened = numbered(experiment())
    part = np.array([3, 17, 40, 41, 99, 120, 200, 310, 311, 312])

    for images, labels in islice(batches(opened, part, 1, CLIENT, "support"), 5):
        assert images.shape == (8, 1, 8, 8)
        indices = indices_of(images)
        assert len(set(indices)) == 8
        assert set(indices) <= set(part.tolist())
        assert labels.tolist() == opened.dataset.train.labels[indices].tolist()


def test_pixels_are_scaled_to_minus_one_and_one() -> None:
    opened = experiment("data.augment=none")
    part = opened.parts[CLIENT].query

    images, _ = next(batches(opened, part, 1, CLIENT, "query"))

    assert images.min() == -1.0
    assert 0.5 < images.max() <= 1.0
    assert images.dtype == torch.float32


def test_every_image_comes_once_before_any_comes_again() -> None:
    part = np.arange(100, 124)

    seen = drawn(6, 8, part)

    first, second = ([i for batch in half for i in batch] for half in (seen[:3], seen[3:]))
    assert sorted(first) == sorted(second) == part.tolist()
    assert [sorted(b) for b in seen[:3]] != [sorted(b) for b in seen[3:]]  # shuffled anew


def test_an_image_that_did_not_fit_the_last_batch_is_not_left_out() -> None:
    part = np.arange(100, 121)  # two batches of 8 and 5 images over

    times = np.zeros(200, int)
    for batch in drawn(12, 8, part):
        np.add.at(times, batch, 1)
        assert times[part].max() - times[part].min() <= 1


def test_a_part_smaller_than_a_batch_makes_a_smaller_batch() -> None:
    assert [sorted(batch) for batch in drawn(3, 8, np.array([5, 6, 7]))] == [[5, 6, 7]] * 3


def test_the_order_is_a_function_of_seed_round_client_and_part() -> None:
    opened = numbered(experiment("data.augment=none"))
    part = np.arange(300, 364)

    def order(opened: Experiment, *where: Any) -> tuple[int, ...]:
        stream = batches(opened, part, *where)
        return tuple(i for images, _ in islice(stream, 8) for i in indices_of(images))

    reference = order(opened, 1, 2, "query")
    other_seed = replace(opened, settings=replace(opened.settings, seed=1))
    assert order(opened, 1, 2, "query") == reference
    others = {
        order(opened, 2, 2, "query"),
        order(opened, 1, 1, "query"),
        order(opened, 2, 1, "query"),
        order(opened, 1, 2, "support"),
        order(other_seed, 1, 2, "query"),
    }
    assert len(others) == 5
    assert reference not in others


# Augmentation


def moves_of(before: torch.Tensor, after: torch.Tensor, flips: bool) -> list[tuple[int, int, bool]]:
    """Return all ways (down, right, mirrored) in which one image (C, H, W) became another."""
    ways = []
    reach, (height, width) = max(before.shape[1:]), before.shape[1:]
    canvas = torch.full((before.shape[0], height + 2 * reach, width + 2 * reach), -1.0)
    for mirrored in (False, True)[: 1 + flips]:
        canvas[:, reach : reach + height, reach : reach + width] = (
            before.flip(2) if mirrored else before
        )
        for down in range(-reach, reach + 1):
            for right in range(-reach, reach + 1):
                top, left = reach - down, reach - right
                if torch.equal(canvas[:, top : top + height, left : left + width], after):
                    ways.append((down, right, mirrored))
    return ways


@pytest.mark.parametrize("augment", ["shift", "shift-flip"])
def test_images_are_shifted_by_up_to_an_eighth_each_on_its_own(augment: str) -> None:
    images = torch.rand(200, 2, 16, 16, generator=torch.Generator().manual_seed(6)) * 2 - 1
    before = images.clone()

    after = augmented(images, augment, np.random.default_rng(7))

    assert torch.equal(images, before)
    ways = [moves_of(*pair, flips=True) for pair in zip(images, after, strict=True)]
    assert {len(way) for way in ways} == {1}
    shifts = {(down, right) for ((down, right, _),) in ways}
    assert shifts == {(down, right) for down in range(-2, 3) for right in range(-2, 3)}
    mirrored = sum(flipped for ((_, _, flipped),) in ways)
    assert mirrored == 0 if augment == "shift" else 70 < mirrored < 130
    assert torch.equal(augmented(images, augment, np.random.default_rng(7)), after)


def test_without_augmentation_images_stay() -> None:
    images = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(8))

    assert torch.equal(augmented(images, "none", np.random.default_rng(9)), images)


def test_training_images_are_augmented_and_test_images_are_not() -> None:
    plain, shifted = (experiment(f"data.augment={a}") for a in ("none", "shift"))
    keys, arrays = start(plain)

    clients = [MetaClient(opened, CLIENT, keys) for opened in (plain, shifted)]
    tested = [client.evaluate(arrays, config_of(plain)) for client in clients]

    assert bits(fit(plain, config_of(plain))) != bits(fit(shifted, config_of(shifted)))
    assert tested[0][0] == tested[1][0]
    assert tested[0][2]["accuracy-before"] == tested[1][2]["accuracy-before"]


# fit


def test_fit_is_a_function_of_what_it_is_given() -> None:
    opened = experiment()
    config = config_of(opened)
    keys, arrays = start(opened)
    before, before_config = bits(arrays), dict(config)
    client = MetaClient(opened, CLIENT, keys)

    first, examples, _ = client.fit(arrays, config)
    torch.rand(3)  # whatever the global generator has done in between
    second, _, _ = client.fit(arrays, config)

    assert bits(first) == bits(second) == bits(fit(opened, config))
    assert bits(arrays) == before
    assert config == before_config
    assert bits(first) != before
    split = opened.parts[CLIENT]
    assert examples == len(split.support) + len(split.query)
    assert [(a.shape, a.dtype) for a in first] == [(a.shape, np.float32) for a in arrays]


def test_the_reply_may_be_changed_without_harm() -> None:
    opened = experiment()
    keys, arrays = start(opened)
    before = bits(arrays)

    trained, _, _ = MetaClient(opened, CLIENT, keys).fit(arrays, config_of(opened))
    for array in trained:
        array += 1.0

    assert bits(arrays) == before
    assert bits(start(opened)[1]) == before


def test_read_only_arrays_are_taken() -> None:
    opened = experiment()
    keys, arrays = start(opened)
    for array in arrays:
        array.flags.writeable = False

    trained, _, _ = MetaClient(opened, CLIENT, keys).fit(arrays, config_of(opened))

    assert bits(trained) == bits(fit(opened, config_of(opened)))


@pytest.mark.parametrize("meta_start", [0, 1])
def test_every_weight_and_alpha_learns(meta_start: float) -> None:
    opened = experiment(f"client.meta_start={meta_start}")

    still = [
        key for key, moves in moved(opened, fit(opened, config_of(opened))).items() if not moves
    ]

    # Of a single pair there is nothing to choose.
    assert still == ["alphas/input_normal", "alphas/input_reduce"]


@pytest.mark.parametrize("order", ["first", "second"])
@pytest.mark.parametrize("relaxation", ["gumbel", "softmax"])
@pytest.mark.parametrize("norm", ["batch", "group"])
def test_episodes_stay_on_the_device_and_never_wait_for_it(
    norm: str, relaxation: str, order: str
) -> None:
    # PyTorch's meta device computes shapes alone. As a GPU does, it refuses tensors of another
    # device; and where the host asked for a value, which a GPU would have to wait for, it fails.
    second_order = f"client.second_order={order == 'second'}"
    operations = f"search.operations={list(OPERATIONS)}".replace("'", "")
    settings = f"search.norm={norm}", f"search.relaxation={relaxation}", second_order, operations
    opened = replace(experiment(*settings, "data.augment=shift"), device=torch.device("meta"))
    keys, arrays = start(opened)

    theta, history = MetaClient(opened, CLIENT, keys).learn(arrays, config_of(opened))

    assert {tensor.device.type for tensor in [*theta.tensors(), history]} == {"meta"}
    sent = wire.from_arrays(dict(zip(keys, arrays, strict=True)))
    assert {n: w.shape for n, w in theta.weights.items()} == {
        n: w.shape for n, w in sent[0].items()
    }


def test_rounds_and_clients_differ() -> None:
    opened = experiment("client.outer_lr_schedule=constant")

    trained = {
        bits(fit(opened, config_of(opened, server_round), partition_id))
        for server_round in (2, 3)
        for partition_id in (0, 1)
    }

    assert len(trained) == 4


def test_alphas_rest_in_warm_up_rounds_and_move_afterwards() -> None:
    opened = experiment("search.warmup_rounds=2", "client.inner_alpha_lr=0.5")

    for server_round, learn in ((1, False), (2, False), (3, True)):
        changed = moved(opened, fit(opened, config_of(opened, server_round)))
        assert changed["alphas/op_normal"] is learn, server_round
        assert changed["alphas/op_reduce"] is learn, server_round
        assert changed["weights/classifier.weight"], server_round


def test_in_warm_up_rounds_the_task_learner_leaves_the_alphas_too() -> None:
    trained = [
        fit(opened, config_of(opened, 1))
        for opened in (experiment(f"client.inner_alpha_lr={rate}") for rate in (0.0, 5.0))
    ]
    later = [
        fit(opened, config_of(opened, 2))
        for opened in (experiment(f"client.inner_alpha_lr={rate}") for rate in (0.0, 5.0))
    ]

    assert bits(trained[0]) == bits(trained[1])
    assert bits(later[0]) != bits(later[1])


@pytest.mark.parametrize(("part", "matters"), [("support", True), ("query", True), ("test", False)])
def test_training_looks_at_support_and_query_and_never_at_test(part: str, matters: bool) -> None:
    opened = experiment("client.episodes=30")  # enough to see every image of a part
    keys, arrays = start(opened)
    indices = getattr(opened.parts[CLIENT], part)

    trained = fit(opened, config_of(opened))
    changed, _, _ = MetaClient(with_noise(opened, indices), CLIENT, keys).fit(
        arrays, config_of(opened)
    )

    assert (bits(trained) != bits(changed)) is matters


@pytest.mark.parametrize(("part", "used"), [("support", 6), ("query", 3)])
def test_every_step_has_a_batch_of_its_own(part: str, used: int) -> None:
    opened = experiment("client.episodes=3", "client.inner_steps=2", "data.augment=none")
    keys, arrays = start(opened)
    indices, config = getattr(opened.parts[CLIENT], part), config_of(opened, 2)
    stream = batches(numbered(opened), indices, 2, CLIENT, part)
    order = [indices_of(images) for images, _ in islice(stream, used + 1)]
    assert len(indices) >= 8 * (used + 1)
    trained = fit(opened, config)

    for number, batch in enumerate(order):
        changed = with_noise(opened, np.array(batch))
        again, _, _ = MetaClient(changed, CLIENT, keys).fit(arrays, config)
        assert (bits(again) != bits(trained)) is (number < used), number


@pytest.mark.parametrize(
    ("share", "server_round", "plain"),
    [(0.67, 1, True), (0.67, 2, True), (0.67, 3, False), (1, 3, True)],
)
def test_before_its_start_meta_learning_is_plain_sgd_on_as_many_batches(
    share: float, server_round: int, plain: bool
) -> None:
    settings = ("client.inner_steps=2", "search.relaxation=softmax", "search.warmup_rounds=9")
    late, paper = (experiment(*settings, f"client.meta_start={start}") for start in (share, 0))
    config = config_of(late, server_round)

    learnt = bits(fit(late, config))

    assert (learnt == bits(fit(late, {**config, "learner": "sgd"}))) is plain
    assert (learnt == bits(fit(paper, config))) is not plain


def test_training_looks_at_no_other_client() -> None:
    opened = experiment("client.episodes=5")
    keys, arrays = start(opened)
    others = [s for number, s in enumerate(opened.parts) if number != CLIENT]
    indices = np.concatenate([part for s in others for part in (s.support, s.query, s.test)])

    changed, _, _ = MetaClient(with_noise(opened, indices), CLIENT, keys).fit(
        arrays, config_of(opened)
    )

    assert bits(changed) == bits(fit(opened, config_of(opened)))


def test_pruned_weights_are_neither_needed_nor_sent_back() -> None:
    opened = experiment()
    mask = Mask.full(opened.topology)
    mask.op_reduce[:] = torch.tensor([name == "skip_connect" for name in ONLY])
    keys, arrays = start(opened)
    types = opened.shape.cell_types()
    dead = [
        f"weights/cells.{number}.edges.{edge}.{name}."
        for number, kind in enumerate(types)
        if kind == "reduce"
        for edge in (0, 1)
        for name in ("sep_conv_3x3", "avg_pool_3x3")
    ]
    alive = {k: a for k, a in zip(keys, arrays, strict=True) if not k.startswith(tuple(dead))}
    assert len(alive) < len(keys)
    config = {"server-round": 2, **wire.round_config(0.5, mask)}

    client = MetaClient(opened, CLIENT, list(alive))
    trained, _, _ = client.fit(list(alive.values()), config)

    assert [a.shape for a in trained] == [a.shape for a in alive.values()]
    moves = {k: bits([a]) != bits([t]) for (k, a), t in zip(alive.items(), trained, strict=True)}
    assert not moves["alphas/op_reduce"]  # nothing is left to choose
    assert moves["alphas/op_normal"]


def test_where_all_is_decided_alphas_need_not_be_sent() -> None:
    opened = experiment()
    alphas = random_alphas(opened, seed=3)
    mask = final_cut(alphas, Mask.full(opened.topology), opened.topology)
    weights, _ = opened.initial_parameters()
    names = alive_names(opened.shape, list(weights), mask.alive(opened.topology))
    arrays = wire.to_arrays({name: weights[name] for name in names}, alphas)
    sent = {key: array for key, array in arrays.items() if not key.startswith(wire.ALPHAS)}
    config = {"server-round": 2, **wire.round_config(0.5, mask)}

    expected, _, _ = MetaClient(opened, CLIENT, list(arrays)).fit(list(arrays.values()), config)
    trained, _, _ = MetaClient(opened, CLIENT, list(sent)).fit(list(sent.values()), config)

    assert len(trained) == len(sent)
    assert bits(trained) == bits(expected[: len(sent)])
    assert bits(trained) != bits(list(sent.values()))


def test_a_strategy_that_sends_neither_tau_nor_mask_gets_the_schedule() -> None:
    opened = experiment()

    for server_round in (1, 3):
        config = config_of(opened, server_round, opened.plan.schedule(server_round))
        assert bits(fit(opened, {"server-round": server_round})) == bits(fit(opened, config))
    other_tau = config_of(opened, 3, 2.0)
    assert bits(fit(opened, {"server-round": 3})) != bits(fit(opened, other_tau))


def test_metrics_are_the_mean_over_the_episodes() -> None:
    opened = experiment("client.episodes=3", "client.outer_lr=0", "client.outer_alpha_lr=0")
    keys, arrays = start(opened)

    trained, _, metrics = MetaClient(opened, CLIENT, keys).fit(arrays, config_of(opened))

    assert bits(trained) == bits(arrays)  # an outer step of zero
    assert 0 <= metrics["accuracy"] <= 1
    assert metrics["accuracy"] * 3 * 8 == pytest.approx(
        round(metrics["accuracy"] * 3 * 8), abs=1e-4
    )
    assert 0.5 * math.log(10) < metrics["loss"] < 2 * math.log(10)  # untrained, of ten classes
    assert metrics["seconds"] > 0


def test_the_outer_step_of_the_weights_follows_its_schedule() -> None:
    rounds = 3

    def step(schedule: str, server_round: int) -> float:
        """Return how far one plain step moves the classifier's bias."""
        opened = experiment(
            f"client.outer_lr_schedule={schedule}",
            "client.weight_decay=0",
            "search.warmup_rounds=9",
        )
        keys, arrays = start(opened)
        trained = fit(opened, config_of(opened, server_round))
        at = keys.index("weights/classifier.bias")
        return float(np.abs(trained[at] - arrays[at]).sum())

    for server_round in (1, 2, 3):
        factor = 0.5 * (1 + math.cos(math.pi * (server_round - 1) / rounds))
        ratio = step("cosine", server_round) / step("constant", server_round)
        assert ratio == pytest.approx(factor, rel=1e-4)


# evaluate


def test_evaluation_measures_the_test_part_before_and_after() -> None:
    opened = experiment()
    keys, arrays = start(opened)
    before = bits(arrays)

    loss, examples, metrics = MetaClient(opened, CLIENT, keys).evaluate(arrays, config_of(opened))

    test = opened.parts[CLIENT].test
    assert examples == len(test)
    assert loss > 0
    for key in ("accuracy-before", "accuracy-after"):
        right = metrics[key] * len(test)
        assert 0 <= right <= len(test)
        assert right == pytest.approx(round(right))
    assert bits(arrays) == before


def test_accuracy_before_is_that_of_the_supernet_without_noise() -> None:
    opened = experiment()
    keys, arrays = start(opened)
    test = opened.parts[CLIENT].test
    images = torch.from_numpy(np.array(opened.dataset.train.images[test]))
    weights, alphas = wire.from_arrays(dict(zip(keys, arrays, strict=True)))
    relaxed = opened.relaxed(Mask.full(opened.topology), 0.5)

    logits = relaxed.predict(weights, alphas, images.permute(0, 3, 1, 2).float() / 127.5 - 1)
    loss, _, metrics = MetaClient(opened, CLIENT, keys).evaluate(arrays, config_of(opened))

    labels = torch.from_numpy(np.array(opened.dataset.train.labels[test]))
    assert metrics["accuracy-before"] == float((logits.argmax(1) == labels).double().mean())
    picked = logits.log_softmax(1)[torch.arange(len(test)), labels]
    assert loss == pytest.approx(-float(picked.mean()), rel=1e-5)


def test_without_adaptation_after_is_before() -> None:
    opened = experiment("client.adapt_steps=0")
    keys, arrays = start(opened)

    _, _, metrics = MetaClient(opened, CLIENT, keys).evaluate(arrays, config_of(opened))

    assert metrics["accuracy-after"] == metrics["accuracy-before"]


def test_adaptation_learns_from_support_images() -> None:
    opened = experiment("client.adapt_steps=60", "client.inner_lr=0.1", "client.batch_size=32")
    keys, arrays = start(opened)
    split = opened.parts[CLIENT]

    def after(changed: Experiment) -> tuple[float, float]:
        _, _, metrics = MetaClient(changed, CLIENT, keys).evaluate(arrays, config_of(changed))
        return metrics["accuracy-before"], metrics["accuracy-after"]

    before, adapted = after(opened)
    assert adapted > before + 0.2
    assert after(with_noise(opened, split.query)) == (before, adapted)
    assert after(with_noise(opened, split.support)) != (before, adapted)


def test_evaluation_gives_the_same_numbers_twice() -> None:
    opened = experiment("client.adapt_steps=3")
    keys, arrays = start(opened)
    client = MetaClient(opened, CLIENT, keys)

    results = [client.evaluate(arrays, config_of(opened)) for _ in range(2)]

    for _, _, metrics in results:
        assert metrics.pop("seconds") > 0
    assert results[0] == results[1]


# Flower's older way


def test_it_is_a_numpy_client_of_the_older_kind() -> None:
    opened = experiment()
    keys, arrays = start(opened)
    client = MetaClient(opened, CLIENT, keys)
    assert isinstance(client, NumPyClient)

    trained, examples, metrics = client.fit(arrays, {"server-round": 2})
    loss, _, measured = client.evaluate(trained, {"server-round": 2})

    assert client.to_client() is not None
    assert all(isinstance(array, np.ndarray) for array in trained)
    assert type(examples) is int
    assert type(loss) is float
    assert {type(value) for value in (*metrics.values(), *measured.values())} == {float}


def test_arrays_that_do_not_match_the_keys_are_refused() -> None:
    opened = experiment()
    keys, arrays = start(opened)

    with pytest.raises(ValueError, match="zip"):
        MetaClient(opened, CLIENT, keys).fit(arrays[:-1], config_of(opened))
