"""The server's round by numbers worked out by hand; strategies by name; the wire format."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from io import BytesIO
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Message,
    MessageType,
    MetricRecord,
    RecordDict,
)
from flwr.serverapp.strategy import FedAdam, FedAvg, Strategy
from tiny import context_of

from fedmetanas.errors import StrategyError
from fedmetanas.experiments.engines.inline import InlineGrid
from fedmetanas.experiments.randomness import torch_generator
from fedmetanas.search_space.alphas import PER_CELL_NAMES, Alphas, Mask, Topology
from fedmetanas.search_space.relaxation import TemperatureSchedule
from fedmetanas.search_space.supernet import NetworkShape, Weights, build_supernet, initial_weights
from fedmetanas.strategies import wire
from fedmetanas.strategies.fedmetanas import FedMetaNAS, SearchPlan
from fedmetanas.strategies.npy import from_array, to_array
from fedmetanas.strategies.registry import STRATEGIES, make_strategy, register

Arrays = dict[str, np.ndarray[Any, Any]]

OPERATIONS = ("skip_connect", "sep_conv_3x3", "dil_conv_3x3")
TOPOLOGY = Topology(
    2, OPERATIONS
)  # 5 edges and 4 pairs: edges 0, 1 of node 0, edges 2, 3, 4 of node 1
SHAPE = NetworkShape(
    in_channels=1, classes=3, channels=2, layers=3, topology=TOPOLOGY, norm="group"
)


def plan_of(warmup_rounds: int = 0, **changes: Any) -> SearchPlan:
    """At tau = 0.1 a logit that is lower by 0.5 than the best has a share below 0.05."""
    schedule = TemperatureSchedule("constant", 0.1, 0.1, 1)
    values = {"operation_threshold": 0.05, "pair_threshold": 0.05, **changes}
    values = {"rounds": 9, "generator": generator_of, "weight_free_limit": None, **values}
    return SearchPlan(SHAPE, schedule, warmup_rounds=warmup_rounds, **values)


def generator_of(purpose: str, seed: int = 0) -> torch.Generator:
    return torch_generator(purpose, seed)


class Nodes(InlineGrid):
    """A grid of some nodes; what they would answer is written in the tests."""

    def __init__(self, *nodes: int) -> None:
        super().__init__(lambda message, context: message, context_of({}))
        self.nodes = nodes

    def get_node_ids(self) -> Iterable[int]:
        return list(self.nodes)


@pytest.fixture
def grid() -> Nodes:
    return Nodes(11, 12, 13)


@pytest.fixture
def arrays() -> Arrays:
    generator = torch.Generator().manual_seed(1)
    weights = initial_weights(build_supernet(SHAPE), generator)
    return dict(wire.to_arrays(weights, Alphas.initial(TOPOLOGY, generator)))


def configured(strategy: Strategy, server_round: int, arrays: Arrays, grid: Nodes) -> list[Message]:
    record = wire.to_record(arrays)
    return list(strategy.configure_train(server_round, record, ConfigRecord(), grid))


def reply(message: Message, arrays: Arrays, examples: int, **metrics: float) -> Message:
    content = RecordDict(
        {
            "arrays": wire.to_record(arrays),
            "metrics": MetricRecord({"num-examples": examples, **metrics}),
        }
    )
    return Message(content, reply_to=message)


def aggregated(
    strategy: Strategy, messages: list[Message], clients: Sequence[tuple[Arrays, int]], number: int
) -> Arrays:
    """Let every message be answered by one client and return what the strategy makes of it."""
    replies = [reply(m, *client) for m, client in zip(messages, clients, strict=True)]
    record, _ = strategy.aggregate_train(number, replies)
    assert record is not None
    return dict(wire.from_record(record))


def shifted(arrays: Arrays, seed: int, alphas: float = 0.0) -> Arrays:
    """Return a client's arrays: those it got, moved at random, the alphas by at most `alphas`."""
    rng = np.random.default_rng(seed)
    return {
        key: (
            array
            + rng.uniform(-1, 1, array.shape) * (alphas if key.startswith(wire.ALPHAS) else 0.1)
        ).astype(np.float32)
        for key, array in arrays.items()
    }


def with_alphas(arrays: Arrays, **changed: Any) -> Arrays:
    new = {wire.ALPHAS + name: np.asarray(a, np.float32) for name, a in changed.items()}
    assert new.keys() <= arrays.keys()
    return {**arrays, **new}


def doomed_reduce() -> tuple[Any, Any]:
    """Logits that leave of the reduce cell: pair (2, 3) of node 1, all but conv on edge 0.

    Node 1 has the pairs (2, 3), (2, 4), (3, 4): edge 4 is in none that lives.
    """
    operations = np.zeros((5, 3), np.float32)
    operations[0] = [0.0, 2.0, 0.1]
    pairs = np.array([0.7, 1.0, -1.0, -1.0], np.float32)
    return operations, pairs


# Aggregation


def test_three_unequal_clients_are_averaged_by_their_examples(arrays: Arrays, grid: Nodes) -> None:
    strategy = FedMetaNAS(plan_of(warmup_rounds=9))
    # Worked out by hand for 10, 30 and 60 examples: 0.1 x + 0.3 y + 0.6 z.
    kernel, bias, logit = "weights/stem.0.weight", "weights/classifier.bias", "alphas/input_normal"
    values = {
        kernel: ([1.0, 2.0, 3.0], 0.1 + 0.6 + 1.8),
        bias: ([-4.0, 8.0, 0.5], -0.4 + 2.4 + 0.3),
        logit: ([0.3, -0.2, 0.1], 0.03 - 0.06 + 0.06),
    }
    clients = [
        ({**arrays, **{k: np.full_like(arrays[k], v[0][number]) for k, v in values.items()}}, count)
        for number, count in enumerate((10, 30, 60))
    ]

    result = aggregated(strategy, configured(strategy, 1, arrays, grid), clients, 1)

    for key, (_, expected) in values.items():
        np.testing.assert_allclose(result[key], np.full_like(arrays[key], expected), rtol=1e-6)
        assert result[key].dtype == np.float32
    assert list(result) == list(arrays)


def test_every_entry_is_the_weighted_mean_of_the_clients(arrays: Arrays, grid: Nodes) -> None:
    strategy = FedMetaNAS(plan_of(warmup_rounds=9))
    counts = (1, 2, 5)
    clients = [shifted(arrays, seed, alphas=1.0) for seed in counts]

    messages = configured(strategy, 1, arrays, grid)
    result = aggregated(strategy, messages, list(zip(clients, counts, strict=True)), 1)

    for key in arrays:
        stack = np.stack([client[key].astype(np.float64) for client in clients])
        expected = np.average(stack, axis=0, weights=counts)
        np.testing.assert_allclose(result[key], expected, rtol=1e-5, atol=1e-7)
        for client in clients:  # a port of FedNAS sent the first client's alphas back
            assert not np.allclose(result[key], client[key], atol=1e-3), key


def test_weights_and_alphas_go_by_rules_of_their_own(arrays: Arrays, grid: Nodes) -> None:
    clients = [
        ({key: np.full_like(a, value) for key, a in arrays.items()}, count)
        for value, count in ((1.0, 10), (2.0, 30), (9.0, 60))
    ]
    by_rule = {"weighted-mean": 0.1 + 0.6 + 5.4, "mean": 4.0, "median": 2.0}

    for weights_rule, of_weights in by_rule.items():
        for alphas_rule, of_alphas in by_rule.items():
            strategy = FedMetaNAS(plan_of(warmup_rounds=9), weights_rule, alphas_rule)
            result = aggregated(strategy, configured(strategy, 1, arrays, grid), clients, 1)
            for key, array in result.items():
                expected = of_alphas if key.startswith("alphas/") else of_weights
                np.testing.assert_allclose(array, np.full_like(array, expected), rtol=1e-6)


def test_metrics_are_averaged_by_examples(arrays: Arrays, grid: Nodes) -> None:
    strategy = FedMetaNAS(plan_of(warmup_rounds=9))
    messages = configured(strategy, 1, arrays, grid)
    measured = ((10, 1.0), (30, 2.0), (60, 4.0))

    replies = [reply(m, arrays, n, loss=x) for m, (n, x) in zip(messages, measured, strict=True)]
    _, metrics = strategy.aggregate_train(1, replies)

    assert metrics is not None
    assert metrics["loss"] == pytest.approx(0.1 * 1 + 0.3 * 2 + 0.6 * 4)


def test_the_callers_order_of_replies_decides_the_bits(arrays: Arrays, grid: Nodes) -> None:
    huge, one, opposite = (
        ({key: np.full_like(a, value) for key, a in arrays.items()}, 5)
        for value in (2.0**60, 1.0, -(2.0**60))
    )

    def run(*clients: tuple[Arrays, int]) -> set[float]:
        strategy = FedMetaNAS(plan_of(warmup_rounds=9))
        messages = configured(strategy, 1, arrays, grid)
        result = aggregated(strategy, messages, clients, 1)
        return {float(x) for array in result.values() for x in array.flat}

    # In float64 a third is lost beside a third of 2^60, and kept after the two have cancelled.
    assert run(huge, one, opposite) == {0.0}
    assert run(huge, opposite, one) == {float(np.float32(1 / 3))}


def test_no_reply_leaves_nothing_to_aggregate(grid: Nodes) -> None:
    assert FedMetaNAS(plan_of()).aggregate_train(1, []) == (None, None)


@pytest.mark.parametrize("key", ["weights_rule", "alphas_rule"])
def test_an_unknown_rule_is_refused(key: str) -> None:
    with pytest.raises(ValueError, match=f"{key}: expected one of weighted-mean, mean, median"):
        FedMetaNAS(plan_of(), **{key: "avg"})


# What a message tells


def test_messages_carry_round_tau_and_mask(arrays: Arrays, grid: Nodes) -> None:
    schedule = TemperatureSchedule("linear", 2.0, 1.0, 5)
    strategy = FedMetaNAS(replace(plan_of(), schedule=schedule))
    generator = torch.Generator().manual_seed(4)
    strategy.mask = Mask(
        **{n: torch.rand(t.shape, generator=generator) > 0.4 for n, t in strategy.mask.items()}
    )

    messages = configured(strategy, 2, arrays, grid)

    assert sorted(m.metadata.dst_node_id for m in messages) == [11, 12, 13]
    for message in messages:
        assert message.metadata.message_type == MessageType.TRAIN
        (config,) = message.content.config_records.values()
        assert config["server-round"] == 2
        assert config["tau"] == pytest.approx(1.75)
        mask = wire.mask_from_config(config, TOPOLOGY)
        for (name, sent), read in zip(strategy.mask.items(), mask.tensors(), strict=True):
            assert torch.equal(sent, read), name
            assert not read.all()


# Pruning


def test_what_is_pruned_vanishes_and_never_comes_back(arrays: Arrays, grid: Nodes) -> None:
    strategy = FedMetaNAS(plan_of())
    operations, pairs = doomed_reduce()
    trained = with_alphas(arrays, op_reduce=operations, input_reduce=pairs)
    lost = [
        f"weights/cells.{cell}.edges.{edge}.{name}."
        for cell in (1, 2)  # of three cells the second and the third are reduce cells
        for edge, names in ((0, ("dil_conv_3x3", "skip_connect")), (4, OPERATIONS))
        for name in names
    ]
    expected = [key for key in arrays if not key.startswith(tuple(lost))]
    assert 0 < len(expected) < len(arrays)

    result = aggregated(strategy, configured(strategy, 1, arrays, grid), [(trained, 3)] * 3, 1)

    assert list(result) == expected
    alive = strategy.mask.op_reduce.tolist()
    assert alive == [[False, True, False], *[[True] * 3] * 3, [False] * 3]
    assert strategy.mask.input_reduce.tolist() == [True, True, False, False]
    assert strategy.mask.op_normal.all()
    assert strategy.mask.input_normal.all()

    # The next round sends only that; and alphas that have turned round revive nothing.
    messages = configured(strategy, 2, result, grid)
    for message in messages:
        (record,) = message.content.array_records.values()
        (config,) = message.content.config_records.values()
        assert list(record) == expected
        assert wire.mask_from_config(config, TOPOLOGY).op_reduce.tolist() == alive
    turned = with_alphas(result, op_reduce=-operations, input_reduce=-pairs)
    again = aggregated(strategy, messages, [(turned, 3)] * 3, 2)
    assert list(again) == expected
    assert strategy.mask.op_reduce.tolist() == alive
    assert strategy.mask.input_reduce.tolist() == [True, True, False, False]


def test_alphas_stay_on_the_server_once_they_decide_nothing_more(
    arrays: Arrays, grid: Nodes
) -> None:
    strategy = FedMetaNAS(plan_of())
    rng = np.random.default_rng(4)
    decided = {
        key: rng.permutation(array.size).reshape(array.shape).astype(np.float32)
        for key, array in arrays.items()
        if key.startswith(wire.ALPHAS)
    }

    first = configured(strategy, 1, arrays, grid)
    result = aggregated(strategy, first, [({**arrays, **decided}, 1)] * 3, 1)

    assert strategy.mask.is_one_hot(TOPOLOGY)
    assert all(np.array_equal(result[key], decided[key]) for key in decided)
    messages = configured(strategy, 2, result, grid)
    weights = [key for key in result if key.startswith(wire.WEIGHTS)]
    for message in messages:
        (record,) = message.content.array_records.values()
        assert list(record) == weights
    only = {key: result[key] + 1 for key in weights}
    again = aggregated(strategy, messages, [(only, 1)] * 3, 2)
    assert list(again) == list(result)
    assert all(np.array_equal(again[key], decided[key]) for key in decided)
    assert all(np.allclose(again[key], result[key] + 1) for key in weights)


def test_pruning_looks_at_the_average_and_not_at_one_client(arrays: Arrays, grid: Nodes) -> None:
    operations, pairs = doomed_reduce()
    one = with_alphas(arrays, op_reduce=operations, input_reduce=pairs)
    other = with_alphas(arrays, op_reduce=-operations, input_reduce=-pairs)
    strategy = FedMetaNAS(plan_of())

    messages = configured(strategy, 1, arrays, grid)
    result = aggregated(strategy, messages, [(one, 5), (other, 3), (other, 2)], 1)

    assert list(result) == list(arrays)  # 0.5 - 0.3 - 0.2 = 0: undecided
    assert strategy.mask.counts() == Mask.full(TOPOLOGY).counts()


def test_warm_up_rounds_prune_nothing_and_the_next_does(arrays: Arrays, grid: Nodes) -> None:
    operations, pairs = doomed_reduce()
    trained = with_alphas(arrays, op_reduce=operations, input_reduce=pairs)
    strategy = FedMetaNAS(plan_of(warmup_rounds=2))

    for number in (1, 2):
        messages = configured(strategy, number, arrays, grid)
        assert list(aggregated(strategy, messages, [(trained, 3)] * 3, number)) == list(arrays)
        assert strategy.mask.counts() == Mask.full(TOPOLOGY).counts()

    messages = configured(strategy, 3, arrays, grid)
    assert len(aggregated(strategy, messages, [(trained, 3)] * 3, 3)) < len(arrays)


def test_thresholds_of_operations_and_pairs_are_their_own(arrays: Arrays, grid: Nodes) -> None:
    operations, pairs = doomed_reduce()
    trained = with_alphas(arrays, op_reduce=operations, input_reduce=pairs)

    def alive(**thresholds: float) -> tuple[int, int]:
        strategy = FedMetaNAS(plan_of(**thresholds))
        aggregated(strategy, configured(strategy, 1, arrays, grid), [(trained, 3)] * 3, 1)
        return int(strategy.mask.op_reduce.sum()), int(strategy.mask.input_reduce.sum())

    assert alive(operation_threshold=0.0) == (12, 2)  # edge 4 dies with its pairs
    assert alive(pair_threshold=0.0) == (13, 4)  # two operations of edge 0 die


# Strategies by name


class Louder(FedMetaNAS):
    """A strategy of somebody else's, with an option of its own."""

    def __init__(self, plan: SearchPlan, volume: int = 1, **options: Any) -> None:
        super().__init__(plan, **options)
        self.volume = volume


class Own(FedMetaNAS):
    """Has options whose names and defaults say less than their types do."""

    def __init__(
        self,
        plan: SearchPlan,
        factor: float = 1,
        share: float | None = 1,
        count: int = 1,
        eta_l: float = 0.1,
        fraction_evaluate: float = 1.0,
        tau: float = 1.0,
        factors: Sequence[float] = (1.0, 2.0),
    ) -> None:
        super().__init__(plan)
        self.given = [factor, share, count, eta_l, fraction_evaluate, tau, factors]


class OfFlower(FedAvg):
    """Hands its options on."""

    def __init__(self, volume: int = 1, **options: Any) -> None:
        super().__init__(**options)


class NoStrategy:
    """Something that is no strategy."""


@pytest.fixture
def free_name() -> Iterator[str]:
    yield "test_mine"
    STRATEGIES.pop("test_mine", None)


def refused(name: str, options: Mapping[str, Any] | None = None) -> str:
    with pytest.raises(StrategyError) as caught:
        make_strategy(name, options or {}, plan_of())
    message = str(caught.value)
    assert len(message.splitlines()) == 1, message
    return message


def test_the_registered_strategy_gets_plan_and_options() -> None:
    plan = plan_of()

    strategy = make_strategy("fedmetanas", {"alphas_rule": "median"}, plan)

    assert type(strategy) is FedMetaNAS
    assert strategy.plan is plan
    assert (
        strategy.alphas_rule([np.array([1.0]), np.array([2.0]), np.array([9.0])], [1, 1, 98]) == 2
    )
    assert strategy.weights_rule([np.array([0.0]), np.array([1.0])], [1, 3]) == 0.75


def test_a_strategy_of_flower_gets_the_options_alone() -> None:
    strategy = make_strategy("flwr.serverapp.strategy:FedAdam", {"eta": 0.25}, plan_of())

    assert type(strategy) is FedAdam
    assert strategy.eta == 0.25
    assert strategy.min_train_nodes == strategy.min_available_nodes == 1


def test_a_subclass_of_ones_own_is_found_by_module_and_class() -> None:
    plan = plan_of()

    strategy = make_strategy(f"{__name__}:Louder", {"volume": 7, "weights_rule": "mean"}, plan)

    assert type(strategy) is Louder
    assert (strategy.plan, strategy.volume) == (plan, 7)


def test_options_of_ones_own_are_what_their_types_say() -> None:
    values = {"factor": 0.5, "share": 0.5, "count": 2}
    values |= {"eta_l": 0.2, "fraction_evaluate": 0.5, "tau": -1.0, "factors": [3.0]}

    strategy = make_strategy(f"{__name__}:Own", values, plan_of())

    assert isinstance(strategy, Own)
    assert strategy.given == list(values.values())
    assert isinstance(make_strategy(f"{__name__}:Own", {"share": None}, plan_of()), Own)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("Own", {"factor": "much"}, "a number"),
        ("Own", {"share": "much"}, "a number"),
        ("Own", {"count": 0.5}, "a whole number"),
        ("OfFlower", {"fraction_evaluate": 0.5}, "it to be left out, since all clients"),
        ("OfFlower", {"fraction_train": 1.5}, "greater than 0 and at most 1"),
    ],
)
def test_an_option_of_another_type_or_without_effect_is_refused(
    name: str, options: dict[str, Any], words: str
) -> None:
    assert f"expected {words}" in refused(f"{__name__}:{name}", options)


def test_register_makes_a_name(free_name: str) -> None:
    assert register(free_name)(Louder) is Louder

    assert type(make_strategy(free_name, {}, plan_of())) is Louder
    with pytest.raises(ValueError, match="'test_mine' is taken"):
        register(free_name)
    with pytest.raises(ValueError, match="'fedmetanas' is taken"):
        register("fedmetanas")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("fedmetanass", "expected one of fedmetanas"),
        ("no_such_module:Class", "No module named 'no_such_module'"),
        ("flwr.serverapp.strategy:NoSuch", "NoSuch"),
        ("flwr.serverapp.no:FedAvg", "flwr.serverapp.no"),
        (":FedAvg", "cannot find ':FedAvg'"),
        ("fedmetanas.strategies.fedmetanas:", "cannot find 'fedmetanas.strategies.fedmetanas:'"),
        (f"{__name__}:NoStrategy", "is not a flwr.serverapp.strategy.Strategy"),
        ("builtins:print", "is not a flwr.serverapp.strategy.Strategy"),
    ],
)
def test_a_name_that_leads_nowhere_is_one_line(name: str, words: str) -> None:
    message = refused(name)

    assert message.startswith("strategy.name: ")
    assert repr(name) in message
    assert words in message


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("fedmetanas", {"weight_rule": "mean"}, "weight_rule"),
        ("fedmetanas", {"weights_rule": "avg"}, "expected one of weighted-mean, mean, median"),
        ("fedmetanas", {"plan": 1}, "plan"),
        ("flwr.serverapp.strategy:FedAdam", {"etaa": 1}, "etaa"),
        ("flwr.serverapp.strategy:Strategy", {}, "abstract"),
    ],
)
def test_options_a_strategy_does_not_take_are_one_line(
    name: str, options: dict[str, Any], words: str
) -> None:
    message = refused(name, options)

    assert message.startswith(f"strategy.options: {name}: ")
    assert words in message


def test_a_relative_module_is_one_line() -> None:
    assert refused(".x:Class").startswith("strategy.name: ")


def test_a_module_that_does_not_compile_is_one_line(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_strategy.py").write_text("def (")
    monkeypatch.syspath_prepend(tmp_path)

    assert refused("broken_strategy:Class").startswith("strategy.name: ")


# The wire


def random_parameters(seed: int) -> tuple[Weights, Alphas]:
    generator = torch.Generator().manual_seed(seed)
    weights = initial_weights(build_supernet(SHAPE), generator)
    return weights, Alphas.initial(TOPOLOGY, generator)


def test_arrays_come_through_a_record_unchanged() -> None:
    weights, alphas = random_parameters(2)

    record = wire.to_record(wire.to_arrays(weights, alphas))
    read_weights, read_alphas = wire.from_arrays(wire.from_record(record))

    assert list(record) == [f"weights/{n}" for n in weights] + [
        f"alphas/{n}" for n in PER_CELL_NAMES
    ]
    assert list(read_weights) == list(weights)
    for name, tensor in weights.items():
        assert torch.equal(read_weights[name], tensor)
        assert read_weights[name].dtype == torch.float32
    for sent, read in zip(alphas.tensors(), read_alphas.tensors(), strict=True):
        assert torch.equal(sent, read)


def test_parameters_are_copies_of_the_arrays() -> None:
    arrays = wire.to_arrays(*random_parameters(3))
    before = {key: array.copy() for key, array in arrays.items()}

    weights, alphas = wire.from_arrays(arrays)
    for tensor in [*weights.values(), *alphas.tensors()]:
        tensor.add_(1.0)

    for key, array in arrays.items():
        np.testing.assert_array_equal(array, before[key])


def test_float64_and_read_only_arrays_become_float32() -> None:
    arrays = {k: a.astype(np.float64) for k, a in wire.to_arrays(*random_parameters(4)).items()}
    for array in arrays.values():
        array.flags.writeable = False

    weights, alphas = wire.from_arrays(arrays)

    assert {t.dtype for t in [*weights.values(), *alphas.tensors()]} == {torch.float32}


def test_a_message_without_alphas_is_refused() -> None:
    arrays = wire.to_arrays(*random_parameters(5))
    del arrays["alphas/input_reduce"]

    with pytest.raises(KeyError, match="alphas/input_reduce"):
        wire.from_arrays(arrays)


def test_bytes_are_counted_as_they_are_sent() -> None:
    record = wire.to_record(
        {
            "weights/a": np.ones((3, 5), np.float32),
            "weights/b": np.ones(7, np.float32),
            "alphas/op_normal": np.ones((2, 2), np.float32),
        }
    )
    header = 128  # bytes of NumPy's .npy header for small arrays

    assert wire.count_bytes(record) == (2 * header + 4 * (15 + 7), header + 4 * 4)
    assert wire.count_bytes(ArrayRecord()) == (0, 0)


@pytest.mark.parametrize("name", PER_CELL_NAMES)
@pytest.mark.parametrize("change", [1, -1])
def test_a_mask_of_another_size_is_refused(name: str, change: int) -> None:
    config = wire.round_config(0.5, Mask.full(TOPOLOGY))
    size = len(config[f"mask/{name}"])
    config[f"mask/{name}"] = [True] * (size + change)

    with pytest.raises(
        ValueError, match=f"mask/{name}: expected {size} values, not {size + change}"
    ):
        wire.mask_from_config(config, TOPOLOGY)


def test_without_a_mask_everything_is_alive() -> None:
    mask = wire.mask_from_config({"server-round": 3}, TOPOLOGY)

    assert mask.counts() == (2 * 5 * 3, 2 * 4)


def test_the_partition_is_added_to_a_copy() -> None:
    config = ConfigRecord({"tau": 0.5})

    addressed = wire.with_partition(config, 3)

    assert dict(addressed) == {"tau": 0.5, "partition-id": 3}
    assert dict(config) == {"tau": 0.5}


ARRAYS = {
    "matrix": np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32),
    "scalar": np.array(2.5),
    "empty": np.zeros((0, 5), np.float32),
    "long": np.arange(70_000, dtype=np.int64),
    "mask": np.array([True, False]),
    "columns": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "strided": np.arange(12.0, dtype=np.float32).reshape(3, 4)[:, ::2],
}


@pytest.mark.parametrize("name", list(ARRAYS))
def test_arrays_are_sent_as_flower_would_and_read_either_way(name: str) -> None:
    values = ARRAYS[name]

    ours, flowers = to_array(values), Array(np.copy(values, order="C"))

    assert (ours.dtype, list(ours.shape), ours.stype, ours.data) == (
        flowers.dtype,
        list(flowers.shape),
        flowers.stype,
        flowers.data,
    )
    for sent in (ours, Array(values)):
        np.testing.assert_array_equal(from_array(sent), values)
        assert from_array(sent).dtype == values.dtype
    np.testing.assert_array_equal(ours.numpy(), values)


def in_version_3(values: Any) -> bytes:
    """Return what NumPy writes for names that are not Latin: another header."""
    file = BytesIO()
    np.lib.format.write_array(file, values, version=(3, 0))
    return file.getvalue()


@pytest.mark.parametrize("damage", ["cut", "longer", "longer-3", "header", "object"])
def test_bytes_that_are_no_array_of_numbers_are_refused(damage: str) -> None:
    data = to_array(ARRAYS["matrix"]).data
    damaged = {
        "cut": data[:-5],
        "longer": data + b"1234",
        "longer-3": in_version_3(ARRAYS["matrix"]) + b"1234",
        "header": data.replace(b"'shape'", b"'shpae'"),
        "object": data.replace(b"'<f4'", b"'|O' "),
    }[damage]

    words = "array of objects" if damage == "object" else r"was sent as|[Hh]eader|keys"
    with pytest.raises(ValueError, match=words):
        from_array(Array("float32", (3, 4), "numpy.ndarray", damaged))
