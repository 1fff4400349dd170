"""The baselines: their learners against oracles of plain PyTorch, what their strategies send."""

import math
from collections.abc import Iterable
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict
from helpers import generator, make_shape, random_alphas, random_images, random_parameters
from tiny import Listener, context_of, experiment_of, run_search, same_bits

from fedmetanas.client.learner import Loss
from fedmetanas.client.local_data import batches
from fedmetanas.client.milenas_learner import BatchPair, milenas_learner
from fedmetanas.client.numpy_client import MetaClient
from fedmetanas.client.optimizers import OuterOptimizers
from fedmetanas.client.parameters import Parameters
from fedmetanas.client.sgd_learner import sgd_learner
from fedmetanas.errors import StrategyError
from fedmetanas.experiments.data.registry import Images
from fedmetanas.experiments.engines.inline import InlineGrid
from fedmetanas.experiments.experiment import Experiment
from fedmetanas.search_space.alphas import Mask, Topology
from fedmetanas.search_space.complexity import count_alive_parameters, count_parameters
from fedmetanas.search_space.genotype import Genotype
from fedmetanas.search_space.prediction import Relaxed, loss_and_accuracy
from fedmetanas.search_space.pruning import strongest_inputs_cut
from fedmetanas.search_space.supernet import NetworkShape, alive_names
from fedmetanas.strategies import wire
from fedmetanas.strategies.fedmetanas import FedMetaNAS
from fedmetanas.strategies.fednas import FedNAS
from fedmetanas.strategies.perfedavg import PerFedAvg
from fedmetanas.strategies.random_network import RandomNetwork, random_mask
from fedmetanas.strategies.registry import make_strategy

NO_CLIP = 1e9
SMOOTH = ("avg_pool_3x3", "skip_connect", "sep_conv_3x3")
OPTIMIZERS = OuterOptimizers(lr=0.1, alpha_lr=0.02, momentum=0.9, weight_decay=0.01)

# The learners


def supernet_losses(count: int) -> tuple[Parameters, list[Loss]]:
    """A supernet in float64, mixed by a softmax, and the losses of some batches."""
    shape = make_shape(layers=3, operations=SMOOTH)
    network, theta = random_parameters(shape, 0)
    relaxed = Relaxed(network, shape, Mask.full(shape.topology), 1.0, "softmax")

    def loss(number: int) -> Loss:
        images, labels = random_images(shape, 100 + number)

        def of(theta: Parameters) -> tuple[torch.Tensor, torch.Tensor]:
            return loss_and_accuracy(relaxed.predict(*theta, images), labels)

        return of

    return theta, [loss(number) for number in range(count)]


class PlainPyTorch:
    """Parameters that PyTorch's own optimisers move, by ``backward`` alone."""

    def __init__(self, theta: Parameters) -> None:
        self.theta = theta.with_tensors([t.clone().requires_grad_() for t in theta.tensors()])
        self.weights = list(self.theta.weights.values())
        self.alphas = self.theta.alphas.tensors()
        self.sgd = torch.optim.SGD(self.weights, lr=0.1, momentum=0.9, weight_decay=0.01)
        self.adam = torch.optim.Adam(self.alphas, lr=0.02)

    def weights_step(self, loss: Loss, clip: float) -> None:
        for tensor in self.theta.tensors():
            tensor.grad = None
        loss(self.theta)[0].backward()
        torch.nn.utils.clip_grad_norm_(self.weights, clip)
        self.sgd.step()

    def alphas_step(self, loss: torch.Tensor) -> None:
        for tensor in self.theta.tensors():
            tensor.grad = None
        loss.backward()
        self.adam.step()


def assert_same(ours: Parameters, oracle: PlainPyTorch) -> None:
    pairs = zip(ours.tensors(), oracle.theta.tensors(), strict=True)
    for mine, theirs in pairs:
        torch.testing.assert_close(mine, theirs.detach(), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("clip", [NO_CLIP, 0.05])
def test_sgd_is_that_of_pytorch_and_leaves_the_alphas(clip: float) -> None:
    theta, losses = supernet_losses(3)
    oracle = PlainPyTorch(theta)
    for loss in losses:
        oracle.weights_step(loss, clip)

    trained, history = sgd_learner(theta, losses, OPTIMIZERS, clip)

    assert_same(trained, oracle)
    assert history.shape == (3, 2)
    assert float(history[0, 0]) == pytest.approx(float(losses[0](theta)[0]))
    pairs = zip(trained.alphas.tensors(), theta.alphas.tensors(), strict=True)
    assert all(torch.equal(after, before) for after, before in pairs)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("clip", [NO_CLIP, 0.05])
def test_milenas_steps_the_alphas_by_both_batches_and_then_the_weights_by_support(
    share: float, clip: float
) -> None:
    theta, losses = supernet_losses(6)
    pairs = [BatchPair(*losses[k : k + 2]) for k in (0, 2, 4)]
    oracle = PlainPyTorch(theta)
    for support, query in pairs:
        oracle.alphas_step(query(oracle.theta)[0] + share * support(oracle.theta)[0])
        oracle.weights_step(support, clip)

    trained, history = milenas_learner(theta, pairs, OPTIMIZERS, clip, share)

    assert_same(trained, oracle)
    assert float(history[0, 0]) == pytest.approx(float(losses[1](theta)[0]))


def test_milenas_clips_the_weights_and_not_the_alphas() -> None:
    theta, losses = supernet_losses(2)
    plain = OuterOptimizers(lr=1.0, alpha_lr=0.02, momentum=0.0, weight_decay=0.0)
    pairs = [BatchPair(*losses)]
    clip = 1e-3

    clipped, _ = milenas_learner(theta, pairs, plain, clip, 1.0)
    free, _ = milenas_learner(theta, pairs, plain, NO_CLIP, 1.0)

    def length(trained: Parameters) -> float:
        steps = [trained.weights[n] - w for n, w in theta.weights.items()]
        return float(torch.cat([step.flatten() for step in steps]).norm())

    assert length(clipped) == pytest.approx(clip, rel=1e-6)
    assert length(free) > 10 * clip
    assert torch.equal(clipped.alphas.op_normal, free.alphas.op_normal)
    # A step of Adam does not show the size of a gradient: compare the gradients of two steps.
    twice = [
        milenas_learner(theta, pairs * 2, replace(plain, lr=0.0), c, 1.0)[0].alphas.op_normal
        for c in (clip, NO_CLIP)
    ]
    assert torch.equal(*twice)


# A client


CLIENT = 1


def opened(*overrides: str) -> Experiment:
    return experiment_of("search.layers=3", "data.augment=none", *overrides)


def fit(experiment: Experiment, learner: str, server_round: int = 2, **config: Any) -> list[Any]:
    arrays = wire.to_arrays(*experiment.initial_parameters())
    told = wire.round_config(1.0, Mask.full(experiment.topology))
    told |= {"server-round": server_round, "learner": learner, "relaxation": "softmax", **config}
    client = MetaClient(experiment, CLIENT, list(arrays))
    trained, _, _ = client.fit([array.copy() for array in arrays.values()], told)
    return list(trained)


def bits(arrays: Iterable[np.ndarray[Any, Any]]) -> bytes:
    return b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)


def with_noise(experiment: Experiment, indices: np.ndarray[Any, Any]) -> Experiment:
    """Return the experiment with other pixels in some of the training images."""
    train = experiment.dataset.train
    pixels = np.array(train.images)
    rng = np.random.default_rng(5)
    pixels[indices] = rng.integers(0, 256, pixels[indices].shape, dtype=np.uint8)
    return replace(
        experiment, dataset=replace(experiment.dataset, train=Images(pixels, train.labels))
    )


def order_of(experiment: Experiment, part: str, count: int) -> list[np.ndarray[Any, Any]]:
    """Return the images of the first batches of a part, told by pixels that say which they are."""
    train, split = experiment.dataset.train, experiment.parts[CLIENT]
    pixels = np.zeros_like(train.images)
    for place in range(3):
        pixels[:, 0, place, 0] = np.arange(len(pixels)) // 10**place % 10 * 25
    numbered = replace(
        experiment, dataset=replace(experiment.dataset, train=Images(pixels, train.labels))
    )
    indices = {
        "support": split.support,
        "query": split.query,
        "train": np.sort(np.concatenate([split.support, split.query])),
    }[part]
    found = []
    for images, _ in islice(batches(numbered, indices, 2, CLIENT, part), count):
        digits = (((images[:, 0, 0, :3] + 1) * 127.5).round() / 25).round().long()
        found.append((digits @ torch.tensor([1, 10, 100])).numpy())
    return found


@pytest.mark.parametrize(
    ("learner", "part", "used"),
    # Episodes (3) times inner steps and the outer one (2 + 1); half in each part for MiLeNAS.
    [("sgd", "train", 9), ("milenas", "support", 4), ("milenas", "query", 4)],
)
def test_a_client_sees_as_many_batches_as_in_fedmetanas_each_another(
    learner: str, part: str, used: int
) -> None:
    experiment = opened("client.episodes=3", "client.inner_steps=2")
    order = order_of(experiment, part, used + 1)
    trained = bits(fit(experiment, learner))
    once = [
        batch for batch in order if not any(set(batch) & set(o) for o in order if o is not batch)
    ]
    assert len(once) == len(order)  # no image comes twice

    for number, batch in enumerate(order):
        changed = bits(fit(with_noise(experiment, batch), learner))
        assert (changed != trained) is (number < used), number


@pytest.mark.parametrize("learner", ["sgd", "milenas"])
def test_a_client_never_looks_at_its_test_part(learner: str) -> None:
    experiment = opened("client.episodes=20")
    split = experiment.parts[CLIENT]
    trained = bits(fit(experiment, learner))

    assert bits(fit(with_noise(experiment, split.test), learner)) == trained
    for part in (split.support, split.query):
        assert bits(fit(with_noise(experiment, part), learner)) != trained


def test_the_step_size_falls_within_a_phase_and_not_over_the_run() -> None:
    experiment = opened("client.weight_decay=0", "client.inner_steps=0", "rounds=100")
    start = list(wire.to_arrays(*experiment.initial_parameters()).values())

    def step(phase_round: int, schedule: str = "cosine") -> float:
        changed = replace(
            experiment,
            settings=replace(
                experiment.settings,
                client=replace(experiment.settings.client, outer_lr_schedule=schedule),
            ),
        )
        config = {"phase-round": phase_round, "phase-rounds": 4}
        trained = fit(changed, "sgd", 30 + phase_round, **config)
        return float(sum(np.abs(t - s).sum() for t, s in zip(trained, start, strict=True)))

    for phase_round in (1, 2, 4):
        factor = 0.5 * (1 + math.cos(math.pi * (phase_round - 1) / 4))
        ratio = step(phase_round) / step(phase_round, "constant")
        assert ratio == pytest.approx(factor, rel=1e-3)


def test_an_unknown_learner_is_refused() -> None:
    with pytest.raises(ValueError, match="learner: expected one of meta, sgd, milenas"):
        fit(opened(), "adam")


@pytest.mark.parametrize("second_order", [False, True])
def test_perfedavg_differentiates_through_its_inner_steps_if_it_is_to(second_order: bool) -> None:
    experiment = opened(f"client.second_order={second_order}", "client.inner_lr=0.3")
    strategy = PerFedAvg(experiment.plan)
    told = {"server-round": 2, **strategy.round_config(2)}
    weights, _ = experiment.initial_parameters()
    names = alive_names(experiment.shape, list(weights), strategy.mask.alive(experiment.topology))
    arrays = wire.to_arrays({name: weights[name] for name in names}, random_alphas(TOPOLOGY, 0))
    keys = [key for key in arrays if key.startswith(wire.WEIGHTS)]
    sent = [arrays[key] for key in keys]
    client = MetaClient(experiment, CLIENT, keys)

    trained, _, _ = client.fit(sent, told)

    # MAML once more by autograd alone, on the derived network.
    network = Genotype.from_mask(experiment.shape, strategy.mask).network()
    split, settings = experiment.parts[CLIENT], experiment.settings.client
    support, query = (
        next(batches(experiment, part, 2, CLIENT, name))
        for name, part in (("support", split.support), ("query", split.query))
    )
    leaves = {name: weights[name].clone().requires_grad_() for name in names}

    def loss(at: dict[str, torch.Tensor], batch: tuple[torch.Tensor, torch.Tensor]) -> Any:
        logits = torch.func.functional_call(network, at, (batch[0],))
        return torch.nn.functional.cross_entropy(logits, batch[1])

    slopes = torch.autograd.grad(loss(leaves, support), list(leaves.values()), create_graph=True)
    slopes = slopes if second_order else tuple(slope.detach() for slope in slopes)
    adapted = {n: w - 0.3 * s for (n, w), s in zip(leaves.items(), slopes, strict=True)}
    outer = torch.autograd.grad(loss(adapted, query), list(leaves.values()))
    rate = settings.outer_lr * 0.5 * (1 + math.cos(math.pi / 3))
    for (name, start), slope, found in zip(leaves.items(), outer, trained, strict=True):
        decayed = slope + settings.weight_decay * start
        expected = (start - rate * decayed).detach()
        torch.testing.assert_close(
            torch.from_numpy(found), expected, rtol=1e-3, atol=1e-5, msg=name
        )


# The strategies


OPERATIONS = ("skip_connect", "sep_conv_3x3", "dil_conv_3x3")
TOPOLOGY = Topology(1, OPERATIONS)
LARGE = NetworkShape(1, 3, 2, 3, Topology(3, OPERATIONS), "group")


def test_a_genotype_and_its_mask_are_the_same() -> None:
    for seed in range(20):
        mask = random_mask(LARGE.topology, generator(seed))
        again = Genotype.from_mask(LARGE, mask).mask()
        assert all(torch.equal(a, b) for a, b in zip(mask.tensors(), again.tensors(), strict=True))


@pytest.mark.parametrize("name", ["fedavg", "perfedavg", "random"])
def test_a_decided_network_is_all_that_is_ever_sent(name: str) -> None:
    listener = Listener()

    result = run_search("search.nodes=2", f"strategy.name={name}", hooks=[listener])

    header = 128
    size = 4 * count_parameters(result.weights) + header * len(result.weights)
    clients = 3
    for number in listener.rounds:
        assert number.bytes_down == number.bytes_up == {"weights": clients * size, "alphas": 0}
        assert number.operations_alive == 8
        assert number.phase == "training"
    assert result.summary["pruning_gap"] == 0.0
    assert result.summary["algorithm_seconds"]["search"] == 0.0


def test_the_fixed_network_is_the_one_that_was_asked_for() -> None:
    default = run_search("search.nodes=2", "strategy.name=fedavg", "rounds=1").genotype
    nearest = tuple((("sep_conv_3x3", node), ("sep_conv_3x3", node + 1)) for node in range(2))
    assert default.normal == default.reduce == nearest

    normal = "[[[avg_pool_3x3, 0], [skip_connect, 1]], [[sep_conv_3x3, 0], [skip_connect, 2]]]"
    options = f"strategy.options={{normal: {normal}}}"
    chosen = run_search("search.nodes=2", "strategy.name=perfedavg", options, "rounds=1").genotype
    assert chosen.normal == (
        (("avg_pool_3x3", 0), ("skip_connect", 1)),
        (("sep_conv_3x3", 0), ("skip_connect", 2)),
    )
    assert chosen.reduce == nearest


def test_a_random_network_is_a_function_of_seed_and_draw() -> None:
    def drawn(seed: int, draw: int) -> bytes:
        torch.rand(seed + draw + 1)  # whatever the global generator has done in between
        plan = experiment_of("search.nodes=3", f"seed={seed}").plan
        mask = RandomNetwork(plan, draw=draw).mask
        assert mask.is_one_hot(plan.shape.topology)
        return b"".join(tensor.numpy().tobytes() for tensor in mask.tensors())

    all_drawn = {(seed, draw): drawn(seed, draw) for seed in (0, 1) for draw in range(4)}

    assert len(set(all_drawn.values())) == 8
    assert all(drawn(*key) == mask for key, mask in all_drawn.items())


def test_every_input_and_operation_is_drawn_as_often() -> None:
    topology = Topology(2, OPERATIONS)
    source = generator(3)
    drawn = [random_mask(topology, source) for _ in range(600)]

    second_node = list(topology.node_pairs[1])
    for kind in ("normal", "reduce"):
        pairs = sum(mask.cell(kind)[1].double() for mask in drawn) / 600
        operations = sum(mask.cell(kind)[0][0].double() for mask in drawn) / 600
        assert torch.allclose(pairs[second_node], torch.full((3,), 1 / 3).double(), atol=0.08)
        assert torch.allclose(operations, torch.full((3,), 1 / 3).double(), atol=0.08)


def test_no_random_network_has_an_edge_of_none() -> None:
    topology = Topology(2, ("skip_connect", "none", "sep_conv_3x3"))
    source = generator(4)

    drawn = [random_mask(topology, source).cell("normal")[0].any(dim=0) for _ in range(20)]

    assert torch.stack(drawn).any(dim=0).tolist() == [True, False, True]


def test_a_random_network_may_be_asked_to_have_a_size() -> None:
    plan = experiment_of("search.nodes=2").plan
    sizes = set()
    for draw in range(5):
        strategy = RandomNetwork(plan, draw=draw, parameters=3000)
        network = Genotype.from_mask(plan.shape, strategy.mask).network()
        size = sum(parameter.numel() for parameter in network.parameters())
        assert size == count_alive_parameters(plan.shape, strategy.mask)
        assert 0.75 * 3000 <= size <= 1.25 * 3000
        sizes.add(size)
    assert len(sizes) > 1


def test_fednas_derives_by_the_strongest_operations() -> None:
    topology = Topology(2, ("none", "skip_connect", "sep_conv_3x3"))
    alphas = random_alphas(topology, 0)
    zero = torch.zeros(5, 3, dtype=torch.float64)
    normal = zero.clone()
    normal[2] = torch.tensor([9.0, 1.0, 0.0])  # its none is strong, and does not count
    normal[3] = torch.tensor([0.0, 2.0, 0.0])
    normal[4] = torch.tensor([0.0, 0.0, 3.0])
    alphas = replace(alphas, op_normal=normal)

    cut = strongest_inputs_cut(alphas, topology)

    genotype = Genotype.from_mask(NetworkShape(1, 3, 2, 3, topology, "group"), cut)
    assert genotype.normal[1] == (("skip_connect", 1), ("sep_conv_3x3", 2))
    for seed in range(50):  # against the words of DARTS, edge by edge
        drawn = random_alphas(topology, seed)
        p = drawn.op_reduce.softmax(dim=1).tolist()
        found = Genotype.from_mask(
            NetworkShape(1, 3, 2, 3, topology, "group"), strongest_inputs_cut(drawn, topology)
        ).reduce
        for node, edges in enumerate(topology.node_edges):
            best = {e: max((p[e][o], topology.operations[o]) for o in (1, 2)) for e in edges}
            two = sorted(sorted(edges, key=lambda e: best[e][0])[-2:])
            assert found[node] == tuple((best[e][1], topology.edges[e][1]) for e in two)


FEDNAS = ("search.nodes=2", "strategy.name=fednas", "rounds=5")
FEDNAS_OPTIONS = "strategy.options={search_share: 0.6}"


def test_fednas_searches_then_trains_anew_what_it_found() -> None:
    listener = Listener()

    result = run_search(*FEDNAS, FEDNAS_OPTIONS, hooks=[listener])

    rounds = listener.rounds
    assert [r.phase for r in rounds] == ["search"] * 3 + ["training"] * 2
    assert [r.operations_alive for r in rounds] == [30] * 3 + [8] * 2
    assert {r.tau for r in rounds} == {1.0}
    assert rounds[3].bytes_down["alphas"] == 0 < rounds[2].bytes_down["alphas"]
    assert rounds[3].bytes_down["weights"] < rounds[2].bytes_down["weights"]
    own = result.summary["algorithm_seconds"]
    spent = [r.seconds["total"] - r.seconds["evaluation"] for r in rounds]
    assert own["search"] == pytest.approx(sum(spent[:3]))
    assert own["training"] == pytest.approx(sum(spent[3:]))
    assert own["total"] == own["search"] + own["training"]
    assert own["training"] > 0


class Nodes(InlineGrid):
    """A grid of three nodes whose answers the tests write."""

    def __init__(self) -> None:
        super().__init__(lambda message, context: message, context_of({}))

    def get_node_ids(self) -> Iterable[int]:
        return [11, 12, 13]


def configured(strategy: FedMetaNAS, number: int, arrays: dict[str, Any]) -> list[Message]:
    record = wire.to_record(arrays)
    return list(strategy.configure_train(number, record, ConfigRecord(), Nodes()))


def aggregated(
    strategy: FedMetaNAS, messages: list[Message], number: int, clients: list[dict[str, Any]]
) -> dict[str, Any]:
    replies = []
    for message, arrays, examples in zip(messages, clients, (10, 30, 60), strict=True):
        metrics = MetricRecord({"num-examples": examples})
        content = RecordDict({"arrays": wire.to_record(arrays), "metrics": metrics})
        replies.append(Message(content, reply_to=message))
    record, _ = strategy.aggregate_train(number, replies)
    assert record is not None
    return dict(wire.from_record(record))


def test_fednas_averages_alphas_and_starts_anew_from_seeded_weights() -> None:
    experiment = experiment_of("search.nodes=2", "rounds=2")
    strategy = FedNAS(experiment.plan)
    arrays = dict(wire.to_arrays(*experiment.initial_parameters()))
    messages = configured(strategy, 1, arrays)
    rng = np.random.default_rng(0)
    clients = [
        {key: (a + rng.normal(size=a.shape)).astype(np.float32) for key, a in arrays.items()}
        for _ in range(3)
    ]

    result = aggregated(strategy, messages, 1, clients)

    assert list(result) == list(arrays)  # nothing is pruned
    for key in arrays:
        stack = np.stack([client[key].astype(np.float64) for client in clients])
        expected = np.average(stack, axis=0, weights=(10, 30, 60))
        np.testing.assert_allclose(result[key], expected, rtol=1e-5, atol=1e-6)
        for client in clients:  # a port of FedNAS sent the first client's alphas back
            assert not np.allclose(result[key], client[key], atol=1e-3), key

    _, alphas = wire.from_arrays(result)
    derived = strongest_inputs_cut(alphas, experiment.topology)
    messages = configured(strategy, 2, result)
    sent = [next(iter(m.content.array_records.values())) for m in messages]
    pairs = zip(strategy.mask.tensors(), derived.tensors(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    alive = alive_names(
        experiment.shape,
        [key.removeprefix(wire.WEIGHTS) for key in wire.split(list(arrays))[0]],
        derived.alive(experiment.topology),
    )
    first = wire.from_record(sent[0])
    assert sorted(first) == sorted(wire.WEIGHTS + name for name in alive)
    kernels = [key for key, array in first.items() if array.ndim == 4]
    for key in kernels:
        assert not np.allclose(first[key], result[key], atol=1e-3)
        assert not np.allclose(first[key], arrays[key], atol=1e-3)
    again = FedNAS(experiment.plan)
    assert bits(first.values()) == bits(
        wire.from_record(
            next(iter(configured(again, 2, result)[0].content.array_records.values()))
        ).values()
    )


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("fedavg", {"normal": [[["sep_conv_3x3", 0]]]}, "normal, node 0"),
        ("fedavg", {"normal": "sep"}, "normal: expected a list"),
        ("fedavg", {"reduce": [[["sep_conv_3x3", 0], ["sep_conv_3x3", 1]]] * 2}, "1 nodes"),
        ("perfedavg", {"normal": [[["dil_conv_3x3", 0], ["none", 1]]]}, "search.operations"),
        ("random", {"draw": -1}, "draw"),
        ("random", {"parameters": 10}, "none has about 10"),
        ("finalists", {"finalists": 0}, "finalists: expected from 1 to 1000; found 0"),
        ("finalists", {"finalists": 1001}, "finalists: expected from 1 to 1000"),
        ("finalists", {"search_share": 0.0}, "search_share"),
        ("finalists", {"parameters": 1.5}, "parameters: expected a whole"),
        ("fednas", {"search_share": 1.0}, "search_share"),
        ("fednas", {"support_share": -1}, "support_share"),
    ],
)
def test_impossible_options_are_one_line(name: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(StrategyError) as caught:
        make_strategy(name, options, experiment_of().plan)

    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert message.startswith(f"strategy.options: {name}: ")
    assert words in message


def test_fednas_needs_two_rounds() -> None:
    with pytest.raises(StrategyError, match="rounds at least 2"):
        make_strategy("fednas", {}, experiment_of("rounds=1").plan)


@pytest.mark.parametrize("name", ["fedavg", "perfedavg", "random", "fednas"])
def test_one_seed_gives_the_same_bits(name: str) -> None:
    runs = [run_search(f"strategy.name={name}", "rounds=2", f"seed={s}") for s in (3, 3, 4)]

    assert same_bits(runs[0].weights, runs[1].weights)
    assert not same_bits(runs[0].weights, runs[2].weights)


def test_every_strategy_tells_its_clients_what_to_do() -> None:
    plan = experiment_of("rounds=4").plan
    told = {
        name: [make_strategy(name, {}, plan).round_config(n) for n in (1, 4)]  # type: ignore[attr-defined]
        for name in ("fedmetanas", "finalists", "perfedavg", "fedavg", "random", "fednas")
    }

    learners = {name: [c.get("learner", "meta") for c in configs] for name, configs in told.items()}
    assert learners == {
        "fedmetanas": ["meta", "meta"],
        "finalists": ["meta", "meta"],
        "perfedavg": ["meta", "meta"],
        "fedavg": ["sgd", "sgd"],
        "random": ["sgd", "sgd"],
        "fednas": ["milenas", "sgd"],
    }
    assert told["fednas"][0]["relaxation"] == "softmax"
    assert (told["fednas"][1]["phase-round"], told["fednas"][1]["phase-rounds"]) == (2, 2)
    assert told["fednas"][0]["support-share"] == 1.0


def test_a_client_does_as_it_is_told() -> None:
    experiment = opened("search.nodes=2")
    results = {
        bits(fit(experiment, "milenas")),
        bits(fit(experiment, "milenas", **{"support-share": 0.25})),
        bits(fit(experiment, "milenas", relaxation="gumbel")),  # it weighs the inputs
        bits(fit(experiment, "milenas", tau=0.5)),
        bits(fit(experiment, "sgd")),
        bits(fit(experiment, "meta")),
    }

    assert len(results) == 6


def test_the_server_measures_the_supernet_that_the_clients_trained() -> None:
    listener = Listener()
    options = "search.nodes=2", "strategy.name=fednas", "rounds=2"
    run_search(*options, "search.relaxation=gumbel", hooks=[listener])
    same = Listener()
    run_search(*options, "search.relaxation=softmax", hooks=[same])

    assert listener.rounds[0].test_loss == same.rounds[0].test_loss
    assert listener.rounds[0].client_accuracy == same.rounds[0].client_accuracy
