"""The teaching version of a search against the real one: whoever reads it reads what is run."""

import ast
import re
import runpy
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny import experiment_of, run_search, strategy_of

from fedmetanas.client.local_data import batches
from fedmetanas.experiments.experiment import Experiment
from fedmetanas.experiments.randomness import torch_generator
from fedmetanas.search_space.alphas import PER_CELL_NAMES, Alphas, Mask, Noise
from fedmetanas.server.loop import RoundResult, SearchResult, SearchState
from fedmetanas.strategies import wire
from fedmetanas.strategies.fedmetanas import FedMetaNAS

FILE = Path(__file__).parents[1] / "examples" / "federated_search.py"
TEXT = FILE.read_text(encoding="utf-8")
ALGORITHM = TEXT.partition("\n\n\nTINY")[0]
ROUNDS = 2  # that are compared
SETTINGS = (
    "rounds=3",
    "clients=2",
    "search.layers=3",
    "search.nodes=2",
    "search.operations=[skip_connect, max_pool_3x3, sep_conv_3x3]",
    "search.warmup_rounds=0",
    "search.tau_start=0.05",
    "search.tau_end=0.03",
    "search.tau_rounds=3",
    "search.operation_threshold=0.25",
    "search.pair_threshold=0.33",
    "client.episodes=2",
    "client.clip=1.0",
    "client.weight_decay=0.01",
    "evaluation.every=5",
)

Named = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def example() -> SimpleNamespace:
    return SimpleNamespace(**runpy.run_path(str(FILE)))


class Enough(Exception):  # noqa: N818 - it is no error
    """The rounds that are compared are done."""


class Follower:
    """A hook that remembers the global model and its mask after every round."""

    def __init__(self, strategy: FedMetaNAS) -> None:
        self.strategy = strategy
        self.rounds: list[tuple[Named, Mask]] = []

    def on_round(self, result: RoundResult, state: SearchState) -> None:
        weights, alphas = wire.from_arrays(wire.from_record(state.arrays))
        self.rounds.append((weights | dict(alphas.items()), self.strategy.mask))
        if len(self.rounds) == ROUNDS:
            raise Enough

    def on_end(self, result: SearchResult) -> None:
        raise AssertionError("it was to stop before")


@pytest.fixture
def _in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let runs compute in float64: what they start from, what they read of messages, images."""
    single_initial, single_batch = Experiment.initial_parameters, Experiment.batch

    def from_arrays(arrays: dict[str, Any]) -> tuple[Named, Alphas]:
        tensors = {key: torch.tensor(array) for key, array in arrays.items()}
        assert {tensor.dtype for tensor in tensors.values()} == {torch.float64}
        weights = {key: tensors[key] for key in wire.split(arrays)[0]}
        return (
            {key.removeprefix(wire.WEIGHTS): tensor for key, tensor in weights.items()},
            Alphas(*(tensors[wire.ALPHAS + name] for name in PER_CELL_NAMES)),
        )

    def initial_parameters(self: Experiment) -> tuple[Named, Alphas]:
        weights, alphas = single_initial(self)
        doubled = Alphas(*(tensor.double() for tensor in alphas.tensors()))
        return {name: tensor.double() for name, tensor in weights.items()}, doubled

    def batch(self: Experiment, *of: Any) -> tuple[torch.Tensor, torch.Tensor]:
        images, labels = single_batch(self, *of)
        return images.double(), labels

    monkeypatch.setattr(wire, "from_arrays", from_arrays)
    monkeypatch.setattr(Experiment, "initial_parameters", initial_parameters)
    monkeypatch.setattr(Experiment, "batch", batch)


def episodes_of(experiment: Experiment, client: int, number: int) -> Iterator[Any]:
    """Draw what a client sees in a round as it does: in the order of its forward passes."""
    settings, part = experiment.settings, experiment.parts[client]
    support = batches(experiment, part.support, number, client, "support")
    query = batches(experiment, part.query, number, client, "query")
    source = torch_generator("noise", settings.seed, number, client)

    def seen(images: torch.Tensor, labels: torch.Tensor) -> Any:
        return images, labels, dict(Noise.draw(experiment.topology, source, torch.float32).items())

    for _ in range(settings.client.episodes):
        inner = [seen(*next(support)) for _ in range(settings.client.inner_steps)]
        yield inner, seen(*next(query))


@pytest.mark.usefixtures("_in_float64")
@pytest.mark.parametrize(
    ("overrides", "prunes_in"),
    [
        (("client.inner_steps=2",), [1, 2]),
        (("client.second_order=true",), [1, 2]),
        (("client.inner_steps=0", "search.warmup_rounds=1"), [2]),
    ],
    ids=["first order", "second order", "no inner steps, warm-up"],
)
def test_its_rounds_are_those_of_the_real_search(
    overrides: tuple[str, ...], prunes_in: list[int], example: SimpleNamespace
) -> None:
    settings = SETTINGS + overrides
    experiment, strategy = experiment_of(*settings), strategy_of(*settings)
    assert isinstance(strategy, FedMetaNAS)
    follower = Follower(strategy)
    weights, alphas = experiment.initial_parameters()
    full = Mask.full(experiment.topology)
    start = example.Round(0, 0.0, dict(full.items()), experiment.shape, experiment.settings)
    counts = [
        len(p.support) + len(p.query) for p in experiment.parts[: experiment.settings.clients]
    ]
    assert len(set(counts)) > 1
    rounds = (
        [(n, list(episodes_of(experiment, client, number))) for client, n in enumerate(counts)]
        for number in range(1, ROUNDS + 1)
    )

    with pytest.raises(Enough):
        run_search(*settings, strategy=strategy, hooks=[follower])
    ours = list(example.search(weights | dict(alphas.items()), start, rounds))

    before = full
    for (theta, now), (expected, mask) in zip(ours, follower.rounds, strict=True):
        assert {name: of.tolist() for name, of in now.mask.items()} == {
            name: of.tolist() for name, of in mask.items()
        }
        for name, tensor in expected.items():
            furthest = float((theta[name] - tensor).abs().max())
            assert furthest < 1e-9, f"{name}: {furthest}"  # rounding gives some 1e-14
        operations, pairs = mask.counts()
        if now.number in prunes_in:
            assert operations < before.counts()[0]
            assert pairs < full.counts()[1]
        else:
            assert mask.counts() == full.counts()
        assert not mask.is_one_hot(experiment.topology)
        before = mask


def test_it_restates_the_algorithm_and_borrows_none_of_it() -> None:
    nodes = [node for node in ast.walk(ast.parse(TEXT)) if isinstance(node, ast.ImportFrom)]
    borrowed = {f"{node.module}.{name.name}" for node in nodes for name in node.names}

    assert {name for name in borrowed if name.startswith("fedmetanas")} == {
        "fedmetanas.benchmarks.plain.plain_logits",
        "fedmetanas.experiments.experiment.Experiment",
        "fedmetanas.experiments.experiment.open_experiment",
        "fedmetanas.experiments.settings.Settings",
        "fedmetanas.experiments.settings.load",
        "fedmetanas.search_space.supernet.NetworkShape",
    }


def test_it_can_be_read_at_one_sitting() -> None:
    assert "def search(" in ALGORITHM
    assert len(ALGORITHM.splitlines()) <= 120


def test_a_reader_who_starts_it_sees_a_search(
    example: SimpleNamespace,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    shorter = [*example.TINY, "rounds=2", "client.episodes=1"]
    monkeypatch.setitem(example.main.__globals__, "TINY", shorter)

    example.main()

    lines = capsys.readouterr().out.splitlines()
    found = [
        re.fullmatch(r"(.*): test accuracy (0\.\d{3}), (\d+) operations alive", x) for x in lines
    ]
    assert [match and match[1] for match in found] == ["round 1", "round 2", "the network found"]
    assert [match and int(match[3]) for match in found][-1] == 8  # one an edge, two edges a node
