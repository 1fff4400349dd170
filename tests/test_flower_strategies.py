"""Each of Flower's strategies by its name: it does what its paper says, or is refused in a line."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flwr.serverapp.strategy
import numpy as np
import pytest
import tiny
from flwr.app import ArrayRecord, Message, MessageType

from fedmetanas.errors import StrategyError
from fedmetanas.experiments.commands.main import main
from fedmetanas.experiments.engines.apps import CLIENT_APP, AppByName
from fedmetanas.experiments.engines.inline import InlineGrid
from fedmetanas.experiments.randomness import seeded_random
from fedmetanas.experiments.trial import try_strategy
from fedmetanas.server.hooks import Hook, RoundResult, SearchState
from fedmetanas.server.loop import search
from fedmetanas.strategies import wire

FLOWERS = "flwr.serverapp.strategy"
Vector = np.ndarray[Any, Any]


def vector(record: ArrayRecord) -> Vector:
    """Return all numbers of a record, in its order."""
    return np.concatenate([a.ravel() for a in wire.from_record(record).values()]).astype(float)


@dataclass
class Reply:
    """What a client made of the arrays it was sent."""

    sent: Vector
    trained: Vector
    examples: float
    loss: float


class Recorder(InlineGrid):
    """A grid that writes down what clients were sent and answered in training."""

    def __init__(self, *overrides: str) -> None:
        run_config = {"settings": tiny.settings_of(*overrides).to_yaml()}
        super().__init__(AppByName(CLIENT_APP, run_config), tiny.context_of(run_config))
        self.trained: list[tuple[int, Reply]] = []

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        messages = list(messages)
        identities = list(super().push_messages(messages))
        for message, identity in zip(messages, identities, strict=True):
            if message.metadata.message_type == MessageType.TRAIN:
                content = self.replies[identity].content
                (record,) = content.array_records.values()
                (metrics,) = content.metric_records.values()
                (sent,) = message.content.array_records.values()
                (config,) = message.content.config_records.values()
                numbers = [float(metrics[key]) for key in ("num-examples", "loss")]  # type: ignore[arg-type]
                reply = Reply(vector(sent), vector(record), *numbers)
                self.trained.append((int(config["partition-id"]), reply))  # type: ignore[arg-type]
        return identities


class Rounds(Hook):
    """A hook that writes down the replies of each round, by client, and what came of them."""

    def __init__(self, grid: Recorder) -> None:
        self.grid = grid
        self.rounds: list[tuple[list[Reply], Vector]] = []

    def on_round(self, result: RoundResult, state: SearchState) -> None:
        replies = [reply for _, reply in sorted(self.grid.trained, key=lambda pair: pair[0])]
        self.grid.trained.clear()
        self.rounds.append((replies, vector(state.arrays)))


def recorded(*overrides: str) -> list[tuple[list[Reply], Vector]]:
    grid = Recorder(*overrides)
    rounds = Rounds(grid)
    search(grid, tiny.strategy_of(*overrides), tiny.experiment_of(*overrides), [rounds])
    return rounds.rounds


# The papers, on vectors


def mean(replies: Sequence[Reply]) -> Vector:
    return np.average([r.trained for r in replies], axis=0, weights=[r.examples for r in replies])


class FedAvg:
    """A rule that knows the rounds so far."""

    def __init__(self) -> None:
        self.number = 0
        self.m: Any = 0.0
        self.v: Any = 0.0

    def __call__(self, replies: Sequence[Reply]) -> Vector:
        self.number += 1
        return self.step(replies[0].sent, mean(replies), replies)

    def step(self, old: Vector, new: Vector, replies: Sequence[Reply]) -> Vector:
        return new


class FedAvgM(FedAvg):
    def step(self, old: Vector, new: Vector, replies: Sequence[Reply]) -> Vector:
        self.m = 0.5 * self.m + (old - new)
        return old - 0.7 * self.m


class FedAdagrad(FedAvg):
    def step(self, old: Vector, new: Vector, replies: Sequence[Reply]) -> Vector:
        self.v = self.v + (new - old) ** 2
        return old + 0.01 * (new - old) / (np.sqrt(self.v) + 0.001)


class FedAdam(FedAvg):
    def step(self, old: Vector, new: Vector, replies: Sequence[Reply]) -> Vector:
        self.m = 0.9 * self.m + 0.1 * (new - old)
        self.v = 0.99 * self.v + 0.01 * (new - old) ** 2
        power = self.number + 1  # as Flower counts
        rate = 0.01 * np.sqrt(1 - 0.99**power) / (1 - 0.9**power)
        return old + rate * self.m / (np.sqrt(self.v) + 0.001)


class FedYogi(FedAvg):
    def step(self, old: Vector, new: Vector, replies: Sequence[Reply]) -> Vector:
        squares = (new - old) ** 2
        self.m = 0.9 * self.m + 0.1 * (new - old)
        self.v = self.v - 0.01 * squares * np.sign(self.v - squares)
        return old + 0.01 * self.m / (np.sqrt(self.v) + 0.001)


class FedMedian(FedAvg):
    def step(self, old: Vector, new: Vector, replies: Sequence[Reply]) -> Vector:
        return np.median([r.trained for r in replies], axis=0)


class FedTrimmedAvg(FedAvg):
    """The mean without the greatest and the least of five."""

    def step(self, old: Vector, new: Vector, replies: Sequence[Reply]) -> Vector:
        return np.mean(np.sort([r.trained for r in replies], axis=0)[1:-1], axis=0)


class MultiKrum(FedAvg):
    """Of those with the nearest neighbours: the mean of some."""

    chosen, malicious = 2, 1

    def best(self, replies: Sequence[Reply], count: int) -> list[Reply]:
        points = np.stack([r.trained for r in replies])
        squares = ((points[:, None] - points[None]) ** 2).sum(axis=2)
        near = len(replies) - self.malicious - 2
        scores = np.sort(squares, axis=1)[:, 1 : near + 1].sum(axis=1)
        return [replies[k] for k in np.argsort(scores)[:count]]

    def step(self, old: Vector, new: Vector, replies: Sequence[Reply]) -> Vector:
        return mean(self.best(replies, self.chosen))


class Krum(MultiKrum):
    chosen = 1


class Bulyan(MultiKrum):
    """Of five of seven: at each place the mean of the three that are nearest to the median."""

    def step(self, old: Vector, new: Vector, replies: Sequence[Reply]) -> Vector:
        points = np.stack([r.trained for r in self.best(replies, 5)])
        order = np.argsort(np.abs(points - np.median(points, axis=0)), axis=0, kind="stable")
        return np.take_along_axis(points, order[:3], axis=0).mean(axis=0)


class QFedAvg(FedAvg):
    def step(self, old: Vector, new: Vector, replies: Sequence[Reply]) -> Vector:
        q, rate = 0.2, 0.5
        gradients = [(old - r.trained) / rate for r in replies]
        weights = [r.loss**q for r in replies]
        bounds = [
            q * r.loss ** (q - 1) * (g @ g) + r.loss**q / rate
            for r, g in zip(replies, gradients, strict=True)
        ]
        return old - sum(w * g for w, g in zip(weights, gradients, strict=True)) / sum(bounds)


def with_noise(average: Vector, deviation: float, server_round: int, first: int = 0) -> Vector:
    """Add NumPy's global noise of a round, behind so many numbers that are drawn before."""
    with seeded_random("aggregation", 0, server_round):
        np.random.normal(size=first)  # noqa: NPY002
        return average + np.random.normal(0, deviation, average.shape)  # noqa: NPY002


def clipped(replies: Sequence[Reply], norm: float) -> list[Reply]:
    moves = [r.trained - r.sent for r in replies]
    factors = [min(1, norm / np.linalg.norm(move)) for move in moves]
    return [
        Reply(r.sent, r.sent + factor * move, r.examples, r.loss)
        for r, move, factor in zip(replies, moves, factors, strict=True)
    ]


class FixedClipping(FedAvg):
    def __call__(self, replies: Sequence[Reply]) -> Vector:
        average = super().__call__(clipped(replies, 0.2))
        return with_noise(average, 0.1 * 0.2 / len(replies), self.number)


class AdaptiveClipping(FedAvg):
    norm = 0.2

    def __call__(self, replies: Sequence[Reply]) -> Vector:
        average = super().__call__(clipped(replies, self.norm))
        too_long = sum(np.linalg.norm(r.trained - r.sent) > self.norm for r in replies)
        deviation = len(replies) / 20
        with seeded_random("aggregation", 0, self.number):
            share = np.random.normal(too_long, deviation) / len(replies)  # noqa: NPY002
        self.norm *= np.exp(-0.3 * (share - 0.5))
        noise = (0.1**-2 - (2 * deviation) ** -2) ** -0.5
        return with_noise(average, noise * self.norm / len(replies), self.number, first=1)


INNER = f"num_sampled_clients: 5, strategy: {{name: '{FLOWERS}:FedAvg'}}"
SERVED: dict[str, tuple[str, Callable[[], FedAvg]]] = {
    "FedAvg": ("", FedAvg),
    "FedProx": ("proximal_mu: 1.0", FedAvg),  # the rest is its clients'
    "FedAvgM": ("server_learning_rate: 0.7, server_momentum: 0.5", FedAvgM),
    "FedAdagrad": ("eta: 0.01", FedAdagrad),
    "FedAdam": ("eta: 0.01", FedAdam),
    "FedYogi": ("eta: 0.01", FedYogi),
    "FedMedian": ("", FedMedian),
    "FedTrimmedAvg": ("beta: 0.2", FedTrimmedAvg),
    "Krum": ("num_malicious_nodes: 1", Krum),
    "MultiKrum": ("num_malicious_nodes: 1, num_nodes_to_select: 2", MultiKrum),
    "Bulyan": ("num_malicious_nodes: 1", Bulyan),
    "QFedAvg": ("client_learning_rate: 0.5, q: 0.2, train_loss_key: loss", QFedAvg),
    "DifferentialPrivacyServerSideFixedClipping": (
        f"noise_multiplier: 0.1, clipping_norm: 0.2, {INNER}",
        FixedClipping,
    ),
    "DifferentialPrivacyServerSideAdaptiveClipping": (
        f"noise_multiplier: 0.1, initial_clipping_norm: 0.2, clip_norm_lr: 0.3, {INNER}",
        AdaptiveClipping,
    ),
}
REFUSED = {
    "FedXgbBagging": ("", "trees of XGBoost"),
    "FedXgbCyclic": ("", "trees of XGBoost"),
    "DifferentialPrivacyClientSideFixedClipping": (
        f"noise_multiplier: 0.1, clipping_norm: 0.2, {INNER}",
        "sends clipping_norm, which clients here do not know",
    ),
    "DifferentialPrivacyClientSideAdaptiveClipping": (
        f"noise_multiplier: 0.1, {INNER}",
        "sends clipping_norm, which clients here do not know",
    ),
    "QFedAvg": ("client_learning_rate: 0.5", "train_loss_key: .* out of num-examples, loss"),
    "FedAvg": ("weighted_by_key: nope", "weighted_by_key: .*; found 'nope'"),
    "FedAdam": ("eta_l: 0.1", "client.outer_lr"),
    "FedMedian": ("fraction_evaluate: 0.5", "evaluation.every"),
    "Krum": ("min_available_nodes: 9", "clients_per_round"),
    "FedProx": ("proximal_mu: -1.0", "at least 0"),
    "Strategy": ("", "abstract"),
    "Result": ("", "is not a flwr.serverapp.strategy.Strategy"),
}

IMPOSSIBLE = [
    ("Krum", "num_malicious_nodes: -1", "num_malicious_nodes: .*: expected at least 0; found -1"),
    (
        "Krum",
        "num_malicious_nodes: 1",
        "malicious_nodes=1 needs at least 4 clients a round; there are 3",
    ),
    ("MultiKrum", "num_nodes_to_select: 0", "num_nodes_to_select: .*: expected at least 1"),
    (
        "MultiKrum",
        "num_nodes_to_select: 4",
        "num_nodes_to_select=4 needs at least 4 .* there are 3",
    ),
    ("Bulyan", "num_malicious_nodes: 1", "malicious_nodes=1 needs at least 7 clients a"),
    ("Bulyan", "num_malicious_nodes: -1", "expected at least 0; found -1"),
    ("QFedAvg", "client_learning_rate: 0.0, train_loss_key: loss", "expected greater than 0"),
    ("FedTrimmedAvg", "beta: 0.5", "beta: .* expected at least 0 and less than 0.5; found 0.5"),
    ("FedAdam", "tau: 0.0", "tau: .* expected greater than 0; found 0.0"),
    ("FedAdagrad", "tau: -1.0", "tau: .* expected greater than 0; found -1.0"),
    ("FedYogi", "beta_1: 1.0", "beta_1: .* expected at least 0 and less than 1; found 1.0"),
    ("FedAdam", "beta_2: -0.1", "beta_2: .* expected at least 0 and less than 1; found -0.1"),
]


def test_every_strategy_of_flower_is_here() -> None:
    assert set(flwr.serverapp.strategy.__all__) == SERVED.keys() | REFUSED.keys()


@pytest.mark.parametrize("name", list(SERVED))
def test_a_strategys_result_is_that_of_its_paper(name: str) -> None:
    options, make_rule = SERVED[name]
    clients = 7 if name == "Bulyan" else 5

    rounds = recorded(
        f"strategy.name={FLOWERS}:{name}",
        f"strategy.options={{{options}}}",
        *("rounds=2", f"clients={clients}", "held_out_clients=0", "evaluation.every=9"),
    )

    rule, before = make_rule(), None
    assert len(rounds) == 2
    for replies, after in rounds:
        assert len(replies) == clients
        if before is not None:
            np.testing.assert_array_equal(replies[0].sent, before)
        np.testing.assert_allclose(after, rule(replies), rtol=1e-4, atol=1e-6)
        assert np.abs(after - replies[0].sent).max() > 1e-3  # it is more than the tolerance
        before = after


def experiment_file(folder: Path) -> str:
    path = folder / "experiment.yaml"
    path.write_text(tiny.YAML)
    return str(path)


def test_what_is_impossible_with_so_few_clients_is_refused_inside_a_wrapper() -> None:
    krum = f"strategy: {{name: '{FLOWERS}:Krum', options: {{num_malicious_nodes: 1}}}}"
    name = f"{FLOWERS}:DifferentialPrivacyServerSideFixedClipping"
    options = f"noise_multiplier: 0.1, clipping_norm: 1.0, num_sampled_clients: 3, {krum}"
    chosen = [f"strategy.name={name}", f"strategy.options={{{options}}}"]

    with pytest.raises(
        StrategyError, match="nodes=1 needs at least 4 clients a round; there are 3"
    ):
        try_strategy(tiny.experiment_of(*chosen))

    try_strategy(tiny.experiment_of(*chosen, "clients=4"))


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [*((name, *refused) for name, refused in REFUSED.items()), *IMPOSSIBLE],
)
def test_what_cannot_be_served_is_refused_in_a_line_before_anything_is_written(
    name: str, options: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = [f"strategy.name={FLOWERS}:{name}", f"strategy.options={{{options}}}"]
    out = tmp_path / "run"

    code = main(["run", experiment_file(tmp_path), "--engine=inline", f"--out={out}", *chosen])

    assert code == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert len(said.err.splitlines()) == 1, said.err
    assert re.search(words, said.err)
    assert not out.exists()
