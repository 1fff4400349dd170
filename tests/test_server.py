"""The view of the grid, the round loop and the record: who is asked, in which order, what stays."""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, replace
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import ConfigRecord, Context, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAdam
from safetensors.torch import load_file
from tiny import (
    Listener,
    context_of,
    experiment_of,
    run_search,
    same_bits,
    settings_of,
    strategy_of,
)

from fedmetanas.errors import RunError
from fedmetanas.experiments.code_digest import DIGEST
from fedmetanas.experiments.commands.main import main
from fedmetanas.experiments.data.registry import DATASETS, FOLDERS, Dataset, Images, Source
from fedmetanas.experiments.data.registry import register as register_dataset
from fedmetanas.experiments.engines.apps import CLIENT_APP, AppByName
from fedmetanas.experiments.engines.inline import InlineGrid
from fedmetanas.experiments.experiment import open_experiment
from fedmetanas.experiments.results.run_folder import (
    GENOTYPE,
    METRICS,
    SETTINGS,
    SUMMARY,
    WEIGHTS,
    read_summary,
)
from fedmetanas.experiments.settings import from_yaml
from fedmetanas.search_space.genotype import Genotype
from fedmetanas.server.evaluation import Spread, evaluate_network
from fedmetanas.server.loop import RoundResult, SearchResult, SearchState, search
from fedmetanas.server.nodes import AnyNode, Known
from fedmetanas.server.partition_grid import PartitionGrid, draw
from fedmetanas.server.record import Record
from fedmetanas.strategies import wire
from fedmetanas.strategies.fedmetanas import FedMetaNAS
from fedmetanas.strategies.registry import make_strategy

# The view of the grid


class Network(InlineGrid):
    """Some nodes that answer late, one at a time, the last that was asked first."""

    def __init__(self, nodes: Iterable[int], answer: Callable[[Message], Message | None]) -> None:
        super().__init__(answer, context_of({}))  # type: ignore[arg-type]
        self.nodes = list(nodes)
        self.answer = answer
        self.asked: list[Message] = []

    def get_node_ids(self) -> Iterable[int]:
        return list(self.nodes)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        identities = []
        for message in messages:
            identity = f"message-{next(self.numbers)}"
            message.metadata.__dict__["_message_id"] = identity
            self.asked.append(message)
            reply = self.answer(message)
            if reply is not None:
                self.replies[identity] = reply
            identities.append(identity)
        return identities

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        ready = [identity for identity in message_ids if identity in self.replies]
        return [self.replies.pop(identity) for identity in ready[-1:]]


def partition_of(message: Message) -> int:
    (config,) = message.content.config_records.values()
    partition_id = config["partition-id"]
    assert isinstance(partition_id, int)
    return partition_id


def arrays_of(size: int) -> RecordDict:
    arrays = {"weights/w": np.full(size, 2.0, np.float32), "alphas/a": np.ones(2, np.float32)}
    return RecordDict({"arrays": wire.to_record(arrays), "config": ConfigRecord({"tau": 0.5})})


def echo(message: Message) -> Message:
    """Answer with the arrays as they came, and with as many examples as the partition id says."""
    partition_id = partition_of(message)
    metrics = {"num-examples": partition_id, "loss": 1.0, "accuracy": 0.5}
    metrics |= {"seconds": 1.5, "worker": partition_id % 2}
    arrays = message.content.array_records["arrays"]
    code = ConfigRecord({"code": DIGEST})
    content = RecordDict({"arrays": arrays, "metrics": MetricRecord(metrics), "config": code})
    return Message(content, reply_to=message)


def view_of(
    grid: Network, clients: Iterable[int], timeout: float = 10.0, needed: int = 0
) -> PartitionGrid:
    nodes = AnyNode(grid, timeout, 1, lambda client: Known(f"client {client}", 100, 100))
    return PartitionGrid(grid, nodes, list(clients), timeout, needed, lambda left, trace: None)


def ask(view: PartitionGrid, *clients: int) -> list[int]:
    """Send every client the same message; return the ids in the replies, in their order."""
    content = arrays_of(6)
    messages = [Message(content, client, MessageType.TRAIN) for client in clients]
    replies = view.send_and_receive(messages)
    return [int(r.content.metric_records["metrics"]["num-examples"]) for r in replies]  # type: ignore[arg-type]


@pytest.mark.parametrize("nodes", [[77], [5, 3], list(range(100, 110))])
def test_each_drawn_client_gets_one_message_on_any_number_of_nodes(nodes: list[int]) -> None:
    network = Network(nodes, echo)
    view = view_of(network, [1, 4, 9])
    assert list(view.get_node_ids()) == [1, 4, 9]

    answered = ask(view, 9, 1, 4)

    assert answered == [1, 4, 9]  # though the nodes answered last first
    assert sorted(map(partition_of, network.asked)) == [1, 4, 9]
    assert {m.metadata.dst_node_id for m in network.asked} <= set(nodes)
    for message in network.asked:
        assert message.metadata.message_type == MessageType.TRAIN
        assert message.content.config_records["config"]["tau"] == 0.5
        assert message.content.array_records["arrays"]["weights/w"].numpy().sum() == 12


def test_clients_are_spread_over_the_nodes() -> None:
    network = Network([30, 10, 20], echo)

    ask(view_of(network, range(1, 7)), *range(1, 7))

    assert [m.metadata.dst_node_id for m in network.asked] == [20, 30, 10, 20, 30, 10]


def test_a_client_stays_with_its_node_whoever_else_is_drawn() -> None:
    network = Network([10, 20, 30], echo)

    ask(view_of(network, [2, 4]), 2, 4)
    ask(view_of(network, [1, 4, 5]), 1, 4, 5)

    placed = [(partition_of(m), m.metadata.dst_node_id) for m in network.asked]
    assert placed == [(2, 30), (4, 20), (1, 20), (4, 20), (5, 30)]


def test_messages_go_out_in_the_views_order_and_come_back_sorted() -> None:
    network = Network([77], echo)

    answered = ask(view_of(network, [4, 9, 1]), 1, 4, 9)

    assert [partition_of(message) for message in network.asked] == [4, 9, 1]
    assert answered == [1, 4, 9]


def test_a_message_to_a_client_outside_the_round_is_never_sent() -> None:
    network = Network([77], echo)

    with pytest.raises(RunError, match=r"^the strategy asks client 3, which is not in the round$"):
        ask(view_of(network, [4, 9, 1]), 1, 4, 3)

    assert network.asked == []


def test_a_strategy_of_flower_sees_the_drawn_clients_alone() -> None:
    network = Network([77, 78], echo)
    strategy = make_strategy("flwr.serverapp.strategy:FedAvg", {}, experiment_of().plan)
    view = view_of(network, [0, 3, 5])

    record = arrays_of(6).array_records["arrays"]
    list(view.send_and_receive(strategy.configure_train(1, record, ConfigRecord(), view)))

    assert [partition_of(message) for message in network.asked] == [0, 3, 5]


def test_clients_that_were_sent_different_arrays_are_each_judged_by_their_own() -> None:
    view = view_of(Network([7], echo), [1, 4, 9])
    sizes = {1: 6, 4: 8, 9: 6}
    messages = [Message(arrays_of(size), k, MessageType.TRAIN) for k, size in sizes.items()]

    replies = list(view.send_and_receive(messages))

    assert view.left_out == []
    records = [reply.content.array_records["arrays"] for reply in replies]
    assert [record["weights/w"].shape for record in records] == [(6,), (8,), (6,)]
    header = 128
    assert view.sent == view.received == (3 * header + 4 * 20, 3 * (header + 4 * 2))


def test_bytes_and_busy_seconds_are_added_up() -> None:
    view = view_of(Network([1], echo), [1, 2, 3])
    header = 128

    ask(view, 1, 2, 3)

    assert view.sent == view.received == (3 * (header + 4 * 6), 3 * (header + 4 * 2))
    assert view.client_seconds == 3.0  # clients 1 and 3 shared a worker
    ask(view, 1)
    assert view.sent[0] == 4 * (header + 4 * 6)


# The draw


def test_a_draw_is_a_function_of_seed_and_round() -> None:
    draws = {(s, r): tuple(draw(50, 10, s, r)) for s in range(5) for r in range(1, 9)}

    assert {key: tuple(draw(50, 10, *key)) for key in draws} == draws
    assert len(set(draws.values())) == len(draws)


def test_a_draw_has_no_client_twice_and_in_time_every_one() -> None:
    seen: set[int] = set()
    for server_round in range(1, 60):
        drawn = draw(12, 4, 3, server_round)
        assert len(drawn) == len(set(drawn)) == 4
        assert drawn == sorted(drawn)
        assert set(drawn) <= set(range(12))
        seen |= set(drawn)
    assert seen == set(range(12))
    assert draw(12, 12, 3, 1) == list(range(12))


# Accuracy over clients


def test_spread_by_hand() -> None:
    assert Spread.of([0.25]) == Spread(0.25, 0.0, 0.25)
    # Mean 0.5; deviations -0.5, 0, 0.5: variance 0.5 / 3.
    assert asdict(Spread.of([1.0, 0.0, 0.5])) == pytest.approx(
        {"mean": 0.5, "std": (0.5 / 3) ** 0.5, "worst_tenth": 0.0}
    )


@pytest.mark.parametrize(
    ("clients", "worst"), [(9, 0.1), (10, 0.1), (19, 0.1), (20, 0.15), (30, 0.2)]
)
def test_the_worst_tenth_is_one_client_of_ten(clients: int, worst: float) -> None:
    accuracies = [0.1 * (k + 1) for k in range(clients)]  # 0.1, 0.2, ...
    accuracies = list(np.random.default_rng(clients).permutation(accuracies))

    assert Spread.of(accuracies).worst_tenth == pytest.approx(worst)


# A search from end to end


# Thresholds just below one in three: every operation but the strongest, or two, dies at once.
PRUNING = ("search.warmup_rounds=1", "search.operation_threshold=0.333", "search.tau_end=1.0e-5")


@pytest.fixture(scope="module")
def searched() -> tuple[Listener, SearchResult]:
    listener = Listener()
    return listener, run_search(*PRUNING, hooks=[listener])


def test_hooks_hear_every_round_once_and_the_end_last(
    searched: tuple[Listener, SearchResult],
) -> None:
    listener, result = searched

    assert [r.round for r in listener.rounds] == [1, 2, 3]
    assert listener.ends == [result]


def test_rounds_get_cheaper_as_operations_die(searched: tuple[Listener, SearchResult]) -> None:
    first, second, third = searched[0].rounds

    full = 2 * 2 * 3  # cell types, edges, operations
    assert first.operations_alive == full  # a warm-up round
    assert full > second.operations_alive >= third.operations_alive >= 4
    assert first.pairs_alive == second.pairs_alive == third.pairs_alive == 2
    assert second.bytes_down == first.bytes_down == first.bytes_up  # pruned after round 2
    assert third.bytes_down["weights"] < second.bytes_down["weights"]
    assert third.bytes_up == third.bytes_down
    assert third.bytes_down["alphas"] == first.bytes_down["alphas"] > 0


def test_rounds_report_what_they_are(searched: tuple[Listener, SearchResult]) -> None:
    rounds = searched[0].rounds

    assert [r.tau for r in rounds] == pytest.approx([1.0, 1e-5**0.5, 1e-5])
    for result in rounds:
        assert result.clients == [0, 1, 2]
        assert result.train_loss > 0
        assert 0 <= result.train_accuracy <= 1
        assert 0 <= result.entropy <= 1
        assert result.seconds.keys() == {"total", "client", "server", "transport", "evaluation"}
        parts = sum(seconds for name, seconds in result.seconds.items() if name != "total")
        assert parts == pytest.approx(result.seconds["total"])
        assert min(result.seconds["client"], result.seconds["server"]) > 0
    assert rounds[0].entropy > 0.99
    assert rounds[-1].entropy < 0.01


def test_accuracy_is_measured_when_due_and_the_last_round_by_the_network(
    searched: tuple[Listener, SearchResult],
) -> None:
    *due, last = searched[0].rounds

    for result in due:
        assert result.test_loss is not None
        assert result.test_loss > 0
        assert result.test_accuracy is not None
        assert 0 <= result.test_accuracy <= 1
        assert result.client_accuracy is not None
        assert (
            0 <= result.client_accuracy.after.worst_tenth <= result.client_accuracy.after.mean <= 1
        )
    assert last.test_accuracy is last.client_accuracy is None


def test_accuracy_is_not_measured_when_it_is_not_due() -> None:
    listener = Listener()

    run_search("rounds=4", "evaluation.every=2", hooks=[listener])

    measured = [r.round for r in listener.rounds if r.test_accuracy is not None]
    assert measured == [r.round for r in listener.rounds if r.client_accuracy is not None] == [2]


def test_the_summary_has_all_that_is_reported(searched: tuple[Listener, SearchResult]) -> None:
    listener, result = searched
    summary = result.summary

    assert (summary["name"], summary["strategy"]) == ("tiny", "fedmetanas")
    assert (summary["seed"], summary["rounds"]) == (0, 3)
    for group in ("client", "held_out"):
        for when in ("before", "after"):
            spread = summary[f"{group}_accuracy_{when}"]
            assert spread.keys() == {"mean", "std", "worst_tenth"}
            assert 0 <= spread["worst_tenth"] <= spread["mean"] <= 1
    assert summary["held_out_accuracy_after"]["std"] == 0.0  # there is one
    assert summary["seconds"] >= sum(r.seconds["total"] for r in listener.rounds)
    for way in ("bytes_up", "bytes_down"):
        assert summary[way] == sum(sum(getattr(r, way).values()) for r in listener.rounds)
    assert summary["parameters"] == sum(w.numel() for w in result.weights.values())
    assert summary["macs"] > summary["parameters"]  # of convolutions each weight is used often
    assert summary["operations_before_last_cut"] == listener.rounds[-1].operations_alive
    assert summary["operations"] == 4
    json.dumps(summary, allow_nan=False)


def test_the_pruning_gap_is_what_the_last_cut_costs() -> None:
    gaps = []
    for seed in (0, 1, 2):
        summary = run_search(
            "rounds=1", f"seed={seed}", "search.tau_schedule=constant", "search.warmup_rounds=9"
        ).summary
        assert summary["operations_before_last_cut"] == 12
        gap = summary["accuracy_before_last_cut"] - summary["test_accuracy"]
        assert summary["pruning_gap"] == pytest.approx(gap)
        gaps.append(gap)
    assert any(abs(gap) > 0.001 for gap in gaps)


def test_the_network_found_has_one_operation_an_edge(
    searched: tuple[Listener, SearchResult],
) -> None:
    genotype = searched[1].genotype

    for cell in (genotype.normal, genotype.reduce):
        assert len(cell) == 1
        assert all(len(choices) == 2 for choices in cell)
        assert {name for choices in cell for name, _ in choices} <= set(
            settings_of().search.operations
        )
    assert searched[1].weights.keys() == dict(genotype.network().named_parameters()).keys()


@pytest.mark.parametrize("threshold", [0.05, 0.0])  # decided in the rounds, and by the last cut
@pytest.mark.parametrize("limit", [0, 1, None])
def test_weight_free_operations_are_limited(limit: int | None, threshold: float) -> None:
    free = ("skip_connect", "avg_pool_3x3", "max_pool_3x3")
    result = run_search(
        f"search.operations={[*free, 'sep_conv_3x3']}".replace("'", ""),
        f"search.operation_threshold={threshold}",
        f"search.weight_free_limit={'null' if limit is None else limit}",
    )

    found = [
        sum(name in free for node in cell for name, _ in node)
        for cell in (result.genotype.normal, result.genotype.reduce)
    ]

    assert max(found) == (2 if limit is None else limit)


def test_without_held_out_clients_nothing_is_said_of_them() -> None:
    summary = run_search("rounds=1", "held_out_clients=0").summary

    assert not [key for key in summary if key.startswith("held_out")]
    assert "client_accuracy_after" in summary


def test_only_the_drawn_clients_train() -> None:
    listener = Listener()

    run_search("rounds=3", "clients_per_round=2", "evaluation.every=9", hooks=[listener])

    assert [r.clients for r in listener.rounds] == [draw(3, 2, 0, n) for n in (1, 2, 3)]
    assert all(len(r.clients) == 2 for r in listener.rounds)


def test_messages_go_to_the_largest_clients_first() -> None:
    settings = settings_of("clients=9", "rounds=1", "evaluation.every=1")
    experiment = open_experiment(settings)
    asked: list[int] = []
    app = AppByName(CLIENT_APP, {"settings": settings.to_yaml()})

    def client_app(message: Message, context: Context) -> Message:
        asked.append(partition_of(message))
        return app(message, context)

    grid = InlineGrid(client_app, context_of(app.run_config))
    search(grid, FedMetaNAS(experiment.plan), experiment, [])

    sizes = [sum(map(len, (p.support, p.query, p.test))) for p in experiment.parts]
    training, last_measured = asked[:9], asked[9:18]
    for clients in (training, last_measured):
        assert sorted(clients) == list(range(9))
        assert [sizes[client] for client in clients] == sorted(sizes[:9], reverse=True)


# The record


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("record")
    strategy = strategy_of("rounds=2")
    record = Record(path, experiment_of("rounds=2"), strategy)
    run_search("rounds=2", strategy=strategy, hooks=[record])
    return path


def test_the_folder_holds_the_record_and_nothing_else(folder: Path) -> None:
    assert {p.name for p in folder.iterdir()} == {SETTINGS, METRICS, GENOTYPE, WEIGHTS, SUMMARY}


def test_recorded_settings_are_those_of_the_run(folder: Path) -> None:
    assert from_yaml((folder / SETTINGS).read_text()) == settings_of("rounds=2")


def test_metrics_have_one_json_object_a_round(folder: Path) -> None:
    lines = [json.loads(line) for line in (folder / METRICS).read_text().splitlines()]

    assert [line["round"] for line in lines] == [1, 2]
    assert all(line.keys() == RoundResult.__dataclass_fields__.keys() for line in lines)
    assert lines[0]["client_accuracy"]["before"].keys() == {"mean", "std", "worst_tenth"}


def test_genotype_and_weights_give_the_reported_accuracy(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    summary = read_summary(folder)
    assert summary is not None
    genotype = Genotype.from_json((folder / GENOTYPE).read_text())
    weights = load_file(folder / WEIGHTS)
    test = experiment_of().dataset.test

    network = genotype.network()
    network.load_state_dict(weights)
    images = torch.from_numpy(np.array(test.images)).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        right = (network(images).argmax(dim=1).numpy() == test.labels).mean()

    assert right == pytest.approx(summary["test_accuracy"])
    assert evaluate_network(experiment_of(), test, genotype, weights) == summary["test_accuracy"]
    assert main(["evaluate", str(folder)]) == 0
    assert f"test accuracy {summary['test_accuracy']:.6f}" in capsys.readouterr().out


def test_a_run_that_has_not_ended_has_no_summary(tmp_path: Path) -> None:
    class Interrupted(Listener):
        def on_round(self, result: RoundResult, state: SearchState) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_search(hooks=[Record(tmp_path, experiment_of(), strategy_of()), Interrupted()])

    assert read_summary(tmp_path) is None
    assert len((tmp_path / METRICS).read_text().splitlines()) == 1


# Another strategy, another seed


def test_fedadam_takes_the_place_of_fedmetanas() -> None:
    listener = Listener()
    overrides = (
        "strategy.name=flwr.serverapp.strategy:FedAdam",
        "strategy.options={eta: 0.01}",
        "rounds=2",
    )

    result = run_search(*overrides, hooks=[listener])

    assert isinstance(make_strategy("flwr.serverapp.strategy:FedAdam", {}, None), FedAdam)  # type: ignore[arg-type]
    assert result.summary["strategy"] == "flwr.serverapp.strategy:FedAdam"
    assert [r.operations_alive for r in listener.rounds] == [12, 12]  # it does not prune
    assert all(r.train_loss > 0 for r in listener.rounds)
    assert result.summary["operations"] == 4  # the last cut does
    assert not same_bits(result.weights, run_search("rounds=2").weights)


def test_one_seed_gives_the_same_bits_and_another_others() -> None:
    first, again, other = (run_search("rounds=2", f"seed={seed}") for seed in (3, 3, 4))

    assert same_bits(first.weights, again.weights)
    assert first.genotype == again.genotype
    times = ("seconds", "algorithm_seconds")
    assert {k: v for k, v in first.summary.items() if k not in times} == {
        k: v for k, v in again.summary.items() if k not in times
    }
    classifiers = [result.weights["classifier.weight"] for result in (first, other)]
    assert not torch.equal(*classifiers)


# What must not be looked at

NUMBERS = count()


@pytest.fixture
def disguise() -> Iterator[Callable[[Callable[[Dataset], Dataset]], str]]:
    """Register digits, changed by a function, as a dataset; return the setting that chooses it."""
    names: list[str] = []

    def make(change: Callable[[Dataset], Dataset]) -> str:
        name = f"digits-{next(NUMBERS)}"  # never used before: decoded data are cached by name

        def load(source: Source) -> Dataset:
            return change(DATASETS["digits"](source))

        register_dataset(name, FOLDERS["digits"])(load)
        names.append(name)
        return f"data.dataset={name}"

    yield make
    for name in names:
        del DATASETS[name], FOLDERS[name]


def noise_like(images: np.ndarray, seed: int) -> np.ndarray:  # type: ignore[type-arg]
    return np.random.default_rng(seed).integers(0, 256, images.shape, dtype=np.uint8)


@pytest.mark.parametrize(
    "name", ["fedmetanas", "finalists", "fednas", "fedavg", "perfedavg", "random"]
)
def test_no_strategy_ever_touches_the_global_test_set(
    disguise: Callable[[Callable[[Dataset], Dataset]], str], name: str
) -> None:
    def other_test_set(dataset: Dataset) -> Dataset:
        pixels, labels = noise_like(dataset.test.images, 1), (dataset.test.labels + 3) % 10
        return replace(dataset, test=Images(pixels[:100], labels[:100]))

    same = disguise(lambda dataset: dataset)
    other = disguise(other_test_set)
    same_result, other_result = (
        run_search(*PRUNING, f"strategy.name={name}", dataset) for dataset in (same, other)
    )

    assert same_bits(same_result.weights, other_result.weights)
    assert same_result.genotype == other_result.genotype
    accuracies = [r.summary["test_accuracy"] for r in (same_result, other_result)]
    assert accuracies[0] != accuracies[1]  # it was another test set


@pytest.mark.parametrize(
    ("part", "influences"), [("held-out", False), ("test", False), ("support", True)]
)
def test_only_support_and_query_parts_of_training_clients_influence_the_weights(
    disguise: Callable[[Callable[[Dataset], Dataset]], str], part: str, influences: bool
) -> None:
    *trained, held_out = experiment_of().parts
    indices = {
        "held-out": np.concatenate([held_out.support, held_out.query, held_out.test]),
        "test": np.concatenate([split.test for split in trained]),
        "support": np.concatenate([split.support for split in trained]),
    }[part]

    def other_pixels(dataset: Dataset) -> Dataset:
        pixels = np.array(dataset.train.images)
        pixels[indices] = noise_like(pixels[indices], 2)
        return replace(dataset, train=Images(pixels, dataset.train.labels))

    result = run_search(*PRUNING, disguise(other_pixels))

    expected = run_search(*PRUNING)
    assert same_bits(expected.weights, result.weights) is not influences
