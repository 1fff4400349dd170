"""Networks drawn from the alphas, compared on the clients' query images; the best is trained."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from flwr.app import ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from helpers import generator, one_hot_mask, random_alphas
from tiny import Listener, context_of, experiment_of, run_search

from fedmetanas.client.local_data import batches
from fedmetanas.client.numpy_client import MetaClient
from fedmetanas.experiments.code_digest import DIGEST
from fedmetanas.experiments.engines.inline import InlineGrid
from fedmetanas.search_space.alphas import CELL_TYPES, Alphas, Mask, Topology
from fedmetanas.search_space.complexity import count_parameters
from fedmetanas.search_space.genotype import Genotype, load_weights
from fedmetanas.search_space.operations import has_weights
from fedmetanas.search_space.sampling import sample_network
from fedmetanas.server.evaluation import searched
from fedmetanas.server.replies import BadReplyError, checked
from fedmetanas.strategies import wire
from fedmetanas.strategies.finalists import Finalists

SETTINGS = ("search.nodes=2", "rounds=5", "strategy.name=finalists")
TOPOLOGY = Topology(2, ("max_pool_3x3", "none", "skip_connect", "sep_conv_3x3", "dil_conv_3x3"))


# Networks drawn from the alphas


def test_networks_are_drawn_with_the_probabilities_of_the_alphas() -> None:
    alphas, source, count = random_alphas(TOPOLOGY, 1), generator(2), 3000
    masks = [sample_network(alphas, TOPOLOGY, source) for _ in range(count)]

    for cell_type in CELL_TYPES:
        op_logits, pair_logits = (tensor.numpy() for tensor in alphas.cell(cell_type))
        ops = np.stack([mask.cell(cell_type)[0].numpy() for mask in masks])
        pairs = np.stack([mask.cell(cell_type)[1].numpy() for mask in masks])
        for own in TOPOLOGY.node_pairs:
            expected = np.exp(pair_logits[list(own)])
            seen = pairs[:, list(own)].mean(axis=0)
            assert np.allclose(seen, expected / expected.sum(), atol=0.04)
        for edge in range(len(TOPOLOGY.edges)):
            chosen = ops[:, edge][ops[:, edge].any(axis=1)]
            expected = np.exp(op_logits[edge]) * (np.array(TOPOLOGY.operations) != "none")
            tolerance = 4 * np.sqrt(0.25 / len(chosen))
            assert np.allclose(chosen.mean(axis=0), expected / expected.sum(), atol=tolerance)


def test_networks_drawn_are_whole_and_keep_the_limit() -> None:
    shape = experiment_of("search.nodes=2").shape
    pools = Alphas(*(tensor.clone() for tensor in random_alphas(TOPOLOGY, 3).tensors()))
    for cell_type in CELL_TYPES:
        pools.cell(cell_type)[0][:, 0] += 3  # so that without a limit most edges would be pools
    source, seen = generator(4), []
    for _ in range(50):
        mask = sample_network(pools, TOPOLOGY, source, weight_free_limit=1)
        genotype = Genotype.from_mask(replace(shape, topology=TOPOLOGY), mask)
        for cell in (genotype.normal, genotype.reduce):
            seen.append(sum(not has_weights(name) for node in cell for name, _ in node))

    assert max(seen) == 1


# A client's answer


def masks_of(topology: Topology, count: int) -> list[Mask]:
    return [one_hot_mask(topology, seed) for seed in range(count)]


def test_a_client_measures_the_losses_of_the_derived_networks_on_one_query_batch() -> None:
    experiment = experiment_of(*SETTINGS)
    weights, alphas = experiment.initial_parameters()
    arrays = wire.to_arrays(weights, alphas)
    masks = masks_of(experiment.topology, 4)

    losses, examples, _ = MetaClient(experiment, 1, list(arrays)).compare(
        list(arrays.values()), {"server-round": 3, **wire.finalists_config(masks)}
    )

    split = experiment.parts[1]
    images, labels = next(batches(experiment, split.query, 3, 1, "query"))
    expected = []
    for mask in masks:
        genotype, own = searched(experiment, weights, mask)
        network = genotype.network()
        load_weights(network, own)
        expected.append(F.cross_entropy(network(images), labels).item())
    assert losses == pytest.approx(expected, abs=1e-5)
    assert np.std(losses) > 1e-3
    assert examples == len(split.support) + len(split.query)


def test_networks_come_out_of_a_message_as_they_went_in() -> None:
    masks = masks_of(TOPOLOGY, 3)

    config = ConfigRecord(wire.finalists_config(masks))
    found = wire.finalists_from_config(config, TOPOLOGY)

    assert len(found) == 3
    for mask, came in zip(masks, found, strict=True):
        assert all(map(torch.equal, mask.tensors(), came.tensors()))
    other = Topology(1, TOPOLOGY.operations)
    with pytest.raises(ValueError, match="finalists/op_normal: expected 30 values, not 75"):
        wire.finalists_from_config(config, other)


# The server's choice


class Answers(InlineGrid):
    """A grid of nodes that each answer a query with the losses that the test says."""

    def __init__(self, answer: Callable[[int, list[Mask]], tuple[list[float], int]]) -> None:
        super().__init__(lambda message, context: message, context_of({}))
        self.answer = answer
        self.asked: list[Message] = []

    def get_node_ids(self) -> list[int]:
        """Return two."""
        return [5, 6]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        """Answer queries."""
        replies = []
        for message in messages:
            self.asked.append(message)
            config = message.content.config_records["config"]
            masks = wire.finalists_from_config(config, experiment_of(*SETTINGS).topology)
            losses, examples = self.answer(message.metadata.dst_node_id, masks)
            metrics = MetricRecord({"losses": losses, "num-examples": examples})
            replies.append(Message(RecordDict({"metrics": metrics}), reply_to=message))
        return replies


def strategy_of(**options: Any) -> Finalists:
    return Finalists(experiment_of(*SETTINGS).plan, **options)


def configured(strategy: Finalists, server_round: int, grid: Answers) -> Sequence[Message]:
    arrays = wire.to_record(wire.to_arrays(*experiment_of(*SETTINGS).initial_parameters()))
    messages = strategy.configure_train(server_round, arrays, ConfigRecord(), grid)
    return list(messages)


def test_the_network_with_the_least_loss_over_all_images_is_trained() -> None:
    """Client 6 has three times the images of client 5, which alone would choose the second."""
    losses = {5: ([1.0, 0.2, 0.9], 10), 6: ([1.0, 1.2, 0.8], 30)}  # means: 1.0, 0.95, 0.825
    compared: list[Mask] = []

    def answer(node: int, masks: list[Mask]) -> tuple[list[float], int]:
        compared[:] = masks
        return losses[node]

    strategy, grid = strategy_of(finalists=3, search_share=0.4), Answers(answer)
    topology = strategy.plan.shape.topology
    assert [configured(strategy, n, grid) and grid.asked for n in (1, 2)] == [[], []]
    assert strategy.mask.counts() == Mask.full(topology).counts()

    messages = configured(strategy, 3, grid)

    assert [message.metadata.message_type for message in grid.asked] == [MessageType.QUERY] * 2
    assert all(map(torch.equal, strategy.mask.tensors(), compared[2].tensors()))
    sent = set(messages[0].content.array_records["arrays"])
    genotype = Genotype.from_mask(strategy.plan.shape, compared[2])
    names = {wire.WEIGHTS + name for name, _ in genotype.network().named_parameters()}
    assert sent == names
    configured(strategy, 4, grid)
    assert len(grid.asked) == 2  # compared once


def test_finalists_of_a_size_are_those_nearest_to_it() -> None:
    any_size, about = (sizes_compared(parameters=wanted) for wanted in (None, 1700))

    assert len(any_size) == len(about) == 8
    distances = np.abs(about - 1700)
    assert list(distances) == sorted(distances)
    assert distances.max() < np.median(np.abs(any_size - 1700))


def sizes_compared(**options: Any) -> np.ndarray[Any, Any]:
    """Return the numbers of parameters of the networks that clients are asked about."""
    strategy = strategy_of(finalists=8, search_share=0.2, **options)
    sizes: list[int] = []

    def answer(node: int, masks: list[Mask]) -> tuple[list[float], int]:
        networks = [Genotype.from_mask(strategy.plan.shape, mask).network() for mask in masks]
        sizes[:] = [count_parameters(dict(one.named_parameters())) for one in networks]
        return [1.0] * len(masks), 1

    configured(strategy, 2, Answers(answer))
    return np.array(sizes)


def test_steps_fall_within_the_search_and_again_within_the_training() -> None:
    strategy = strategy_of(search_share=0.4)

    told = [strategy.round_config(number) for number in range(1, 6)]

    assert [(c["phase-round"], c["phase-rounds"]) for c in told] == [
        *((1, 2), (2, 2)),
        *((1, 3), (2, 3), (3, 3)),
    ]


# A whole run


def test_a_run_decides_once_and_pays_for_the_comparison() -> None:
    listener = Listener()
    options = "strategy.options={finalists: 4, search_share: 0.4}"

    result = run_search(*SETTINGS, options, hooks=[listener])

    everything = Mask.full(experiment_of(*SETTINGS).topology).counts()
    alive = [(r.operations_alive, r.pairs_alive) for r in listener.rounds]
    assert alive == [everything] * 2 + [(8, 4)] * 3
    assert result.summary["pruning_gap"] == 0
    weights_down = [r.bytes_down["weights"] for r in listener.rounds]
    assert weights_down[2] == weights_down[1] + weights_down[3]  # all of them, to compare with
    for measured in listener.rounds:
        seconds = measured.seconds
        parts = sum(seconds[key] for key in ("client", "server", "transport", "evaluation"))
        assert parts == pytest.approx(seconds["total"])
        assert min(seconds.values()) >= 0


def test_inner_steps_start_late_in_all_rounds_not_in_those_of_a_phase() -> None:
    options = "strategy.options={finalists: 2, search_share: 0.67}"
    late, never, at_once = (
        run_search(*SETTINGS, "rounds=3", options, f"client.meta_start={start}")
        for start in (0.67, 1.0, 0.0)
    )
    early = run_search(*SETTINGS, "rounds=3", options, "client.meta_start=0.5")

    bits = [
        b"".join(tensor.numpy().tobytes() for tensor in found.weights.values())
        for found in (late, never, at_once, early)
    ]
    assert len(set(bits)) == 4


# What does not fit


@pytest.mark.parametrize(
    ("losses", "words"),
    [
        ([0.5, 0.6], "losses: expected a list of 3; found 2"),
        ([0.5, 0.6, float("nan")], "losses: expected a finite number"),
        ([0.5, 0.6, -0.1], "losses: expected a finite number, at least 0; found -0.1"),
        (0.5, "losses: expected a list of 3; found 0.5"),
    ],
)
def test_a_faulty_answer_is_refused(losses: Any, words: str) -> None:
    arrays = {"weights/w": np.ones(2, np.float32)}
    config = {"server-round": 4, **wire.finalists_config(masks_of(TOPOLOGY, 3))}
    content = RecordDict({"arrays": wire.to_record(arrays), "config": ConfigRecord(config)})
    asked = Message(content, 3, MessageType.QUERY)

    def answered(losses: Any) -> Message:
        metrics = {"num-examples": 7, "losses": losses, "seconds": 0.1, "worker": 4}
        records = {"metrics": MetricRecord(metrics), "config": ConfigRecord({"code": DIGEST})}
        return Message(RecordDict(records), reply_to=asked)

    good = checked(answered([0.5, 0.6, 0.7]), asked, 100)
    assert good.content.metric_records["metrics"]["losses"] == [0.5, 0.6, 0.7]
    with pytest.raises(BadReplyError) as caught:
        checked(answered(losses), asked, 100)
    assert words in str(caught.value)
