"""A strategy inside a strategy: it keeps what it is, in a run, in a checkpoint, in time."""

import json
import random
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAdam, FedAvg, FedXgbCyclic, Strategy
from flwr.serverapp.strategy.strategy_utils import sample_nodes
from safetensors.torch import load_file

from fedmetanas.errors import RunError, StrategyError
from fedmetanas.experiments.commands.main import main
from fedmetanas.experiments.randomness import seeded_random
from fedmetanas.search_space.alphas import Mask
from fedmetanas.server.hooks import Hook, RoundResult, SearchState
from fedmetanas.strategies import wire
from fedmetanas.strategies.abilities import round_config, strategies_in
from fedmetanas.strategies.fedmetanas import FedMetaNAS, SearchPlan
from fedmetanas.strategies.registry import make_strategy
from fedmetanas.strategies.state import StateError, pack, restore, state_of

Replies = Iterable[Message]
Aggregated = tuple[ArrayRecord | None, MetricRecord | None]


class Wrapper(Strategy):
    """Hands all on to the strategy that it holds."""

    def __init__(self, strategy: Strategy) -> None:
        self.strategy = strategy

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Replies:
        return self.strategy.configure_train(server_round, arrays, config, grid)

    def aggregate_train(self, server_round: int, replies: Replies) -> Aggregated:
        return self.strategy.aggregate_train(server_round, replies)

    def configure_evaluate(self, *arguments: Any) -> Replies:
        raise AssertionError("it has no part in evaluation")

    def aggregate_evaluate(self, *arguments: Any) -> MetricRecord:
        raise AssertionError("it has no part in evaluation")

    def summary(self) -> None: ...


class OfItsOwn(Wrapper):
    """Makes what it holds itself, under a name of its own, and takes the plan for it."""

    def __init__(self, plan: SearchPlan, share: float = 1.0) -> None:
        self.held = Wrapper(FedAvg(fraction_train=share))
        self.plan = plan
        super().__init__(self.held)


class OtherNames(Wrapper):
    """Takes strategies under names of its own, and what looks like one."""

    def __init__(self, inner, plain: dict[str, Any], second: Any = None) -> None:  # type: ignore[no-untyped-def]
        super().__init__(inner)
        self.plain, self.second = plain, second


class Noisy(Wrapper):
    """Adds noise of all global states there are, drawn where it configures and aggregates."""

    def configure_train(self, *arguments: Any) -> Replies:
        self.first = self.drawn()
        return super().configure_train(*arguments)

    def aggregate_train(self, server_round: int, replies: Replies) -> Aggregated:
        record, metrics = super().aggregate_train(server_round, replies)
        assert record is not None
        noise = 1e-3 * (self.first + self.drawn())
        arrays = {k: (a + noise).astype(a.dtype) for k, a in wire.from_record(record).items()}
        return wire.to_record(arrays), metrics

    @staticmethod
    def drawn() -> float:
        return random.random() + float(np.random.normal()) + float(torch.rand(()))  # noqa: NPY002


def around(inner: str, wrapper: str = "Wrapper", options: str = "{}", **more: Any) -> list[str]:
    """Return the settings of a strategy in a wrapper."""
    rest = "".join(f", {key}: {value}" for key, value in more.items())
    held = f"strategy: {{name: '{inner}', options: {options}}}"
    name = wrapper if ":" in wrapper else f"{__name__}:{wrapper}"
    return [f"strategy.name={name}", f"strategy.options={{{held}{rest}}}"]


def experiment_file(folder: Path) -> str:
    path = folder / "experiment.yaml"
    path.write_text(tiny.YAML)
    return str(path)


def run(folder: Path, *overrides: str) -> int:
    """Run the tiny experiment into a folder, on the command line."""
    arguments = ["run", experiment_file(folder), "--engine=inline", f"--out={folder / 'run'}"]
    return main([*arguments, *overrides])


def operations_alive(result: Iterable[Any]) -> list[int]:
    return [one.operations_alive for one in result]


@pytest.mark.parametrize("inner", ["fedmetanas", "fednas"])
def test_what_is_wrapped_does_what_it_did(inner: str) -> None:
    bare, wrapped = tiny.Listener(), tiny.Listener()

    first = tiny.run_search(f"strategy.name={inner}", "search.nodes=2", hooks=[bare])
    second = tiny.run_search(*around(inner), "search.nodes=2", hooks=[wrapped])

    assert tiny.same_bits(first.weights, second.weights)
    assert first.genotype == second.genotype
    assert operations_alive(bare.rounds) == operations_alive(wrapped.rounds)
    assert [r.phase for r in bare.rounds] == [r.phase for r in wrapped.rounds]
    assert [r.test_loss for r in bare.rounds] == [r.test_loss for r in wrapped.rounds]


@pytest.mark.parametrize("inner", ["fedmetanas", "fednas", "finalists", "perfedavg"])
def test_a_wrapper_that_compares_replies_with_what_it_was_given_can_do_so(inner: str) -> None:
    """Without noise, and with a norm that nothing reaches, privacy changes nothing but rounding."""
    privacy = "flwr.serverapp.strategy:DifferentialPrivacyServerSideFixedClipping"
    numbers = {"noise_multiplier": 0.0, "clipping_norm": 1e9, "num_sampled_clients": 3}
    rest = ("evaluation.every=9", "search.operation_threshold=0.333", "rounds=4")

    bare = tiny.run_search(f"strategy.name={inner}", *rest)
    wrapped = tiny.run_search(*around(inner, privacy, **numbers), *rest)

    assert bare.genotype == wrapped.genotype
    for name, weights in bare.weights.items():
        torch.testing.assert_close(wrapped.weights[name], weights, rtol=1e-3, atol=1e-4)


class Keeps(Hook):
    """Keeps the states it is told of, and what was in them then."""

    def __init__(self) -> None:
        self.kept: list[tuple[SearchState, list[str]]] = []

    def on_round(self, result: RoundResult, state: SearchState) -> None:
        self.kept.append((state, list(state.arrays)))


def test_what_a_hook_was_told_stays_as_it_was() -> None:
    """A strategy takes out of its record what it does not send: alphas, once all is decided."""
    keeps = Keeps()

    tiny.run_search("strategy.name=perfedavg", "rounds=2", "evaluation.every=9", hooks=[keeps])

    assert len(keeps.kept) == 2
    for state, keys in keeps.kept:
        assert list(state.arrays) == keys
        assert wire.split(keys)[1]


def test_options_reach_the_strategy_they_are_for() -> None:
    plan = tiny.experiment_of().plan
    inner = {"name": "fedmetanas", "options": {"alphas_rule": "median"}}

    outer = make_strategy(f"{__name__}:Wrapper", {"strategy": inner}, plan)

    assert list(strategies_in(outer)) == ["", "strategy."]
    held = strategies_in(outer)["strategy."]
    assert isinstance(held, FedMetaNAS)
    assert held.plan is not None
    assert held.alphas_rule is not held.weights_rule
    assert round_config(outer, plan, 2) == held.round_config(2)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"strategy": "fedmetanas"}, "strategy.options.strategy: .* a section with name and"),
        ({"strategy": {"name": "nas"}}, "strategy.options.strategy.name: .*; found 'nas'"),
        (
            {"strategy": {"name": "fedmetanas", "options": {"weights_rule": 3}}},
            "strategy.options.strategy.options.weights_rule: fedmetanas: expected a text",
        ),
        ({"strategy": {"name": "fedmetanas", "rounds": 3}}, "a section with name and options"),
        ({}, "strategy.options: .*missing"),
    ],
)
def test_a_wrong_section_is_named(options: dict[str, Any], words: str) -> None:
    with pytest.raises(StrategyError) as caught:
        make_strategy(f"{__name__}:Wrapper", options, tiny.experiment_of().plan)

    assert re.search(words, str(caught.value))
    assert len(str(caught.value).splitlines()) == 1


def test_a_strategy_that_takes_the_plan_is_given_it() -> None:
    plan = tiny.experiment_of().plan

    strategy = make_strategy(f"{__name__}:OfItsOwn", {"share": 0.5}, plan)

    assert isinstance(strategy, OfItsOwn)
    assert strategy.plan is plan
    assert list(strategies_in(strategy)) == ["", "held.", "held.strategy."]


def test_a_section_makes_a_strategy_whatever_its_parameter_is_called() -> None:
    section = {"name": "fedmetanas", "options": {"alphas_rule": "median"}}
    options = dict.fromkeys(("inner", "plain", "second"), section)

    outer = make_strategy(f"{__name__}:OtherNames", options, tiny.experiment_of().plan)

    assert isinstance(outer, OtherNames)
    assert isinstance(outer.strategy, FedMetaNAS)
    assert isinstance(outer.second, FedMetaNAS)
    assert outer.plain == section
    options["inner"] = {"name": "nas"}
    with pytest.raises(StrategyError, match=r"strategy.options.inner.name: .* found 'nas'"):
        make_strategy(f"{__name__}:OtherNames", options, tiny.experiment_of().plan)


# In time


@pytest.mark.parametrize(
    "chosen",
    [around("flwr.serverapp.strategy:FedAvg"), [f"strategy.name={__name__}:OfItsOwn"]],
    ids=["in the settings", "in its code"],
)
def test_one_client_a_round_is_enough_for_what_is_wrapped(
    chosen: list[str], tmp_path: Path
) -> None:
    """Flower's default is to wait for two, for ever."""
    assert run(tmp_path, *chosen, "clients_per_round=1", "engine.timeout=5", "rounds=1") == 0


class Waiting(FedAvg):
    """Waits for more clients than a round has, whatever it was told."""

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Replies:
        sample_nodes(grid, 99, 99)
        raise AssertionError("there are no such many")


def test_a_strategy_that_waits_for_ever_ends_the_run_in_time() -> None:
    with pytest.raises(RunError, match=r"waits for more than the 3 clients .* for 1 s"):
        tiny.run_search("engine.timeout=1", strategy=Waiting())


# Randomness


def test_noise_of_every_kind_is_a_function_of_seed_and_round() -> None:
    def weights(*overrides: str) -> dict[str, torch.Tensor]:
        random.seed()
        np.random.seed()  # noqa: NPY002
        torch.seed()
        return tiny.run_search(*around("fedmetanas", "Noisy"), "rounds=1", *overrides).weights

    first, again = weights(), weights()

    assert tiny.same_bits(first, again)
    assert not tiny.same_bits(first, tiny.run_search("rounds=1").weights)


def test_draws_differ_by_seed_and_round_and_purpose_and_leave_no_trace() -> None:
    def drawn(purpose: str, seed: int, number: int) -> tuple[float, float, float]:
        with seeded_random(purpose, seed, number):
            return random.random(), float(np.random.normal()), float(torch.rand(()))  # noqa: NPY002

    before = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    draws = [drawn("strategy", 0, 1), drawn("strategy", 1, 1), drawn("strategy", 0, 2)]
    draws.append(drawn("aggregation", 0, 1))
    after = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002

    assert drawn("strategy", 0, 1) == draws[0]
    for kind in zip(*draws, strict=True):
        assert len(set(kind)) == 4
    assert before[0] == after[0]
    assert before[1][1].tolist() == after[1][1].tolist()  # type: ignore[index]
    assert torch.equal(before[2], after[2])


# Checkpoints


def test_what_is_held_is_remembered_with_what_holds_it() -> None:
    plan = tiny.experiment_of().plan
    inner = {"name": "fedmetanas"}
    first, second = (
        make_strategy(f"{__name__}:Noisy", {"strategy": inner}, plan) for _ in range(2)
    )
    assert isinstance(first, Noisy)
    assert isinstance(first.strategy, FedMetaNAS)
    first.first = 0.25
    first.strategy.mask = tiny_mask(first.strategy.mask)

    state = state_of(first)
    pack(state, {})
    restore(second, state)

    assert isinstance(second, Noisy)
    assert isinstance(second.strategy, FedMetaNAS)
    assert second.first == 0.25
    assert second.strategy is not first.strategy
    assert not second.strategy.mask.op_normal.any()


def tiny_mask(mask: Any) -> Any:
    return type(mask)(**{name: torch.zeros_like(tensor) for name, tensor in mask.items()})


def test_a_strategy_that_is_not_there_any_more_is_said() -> None:
    state = state_of(Wrapper(FedAvg()))

    with pytest.raises(StateError, match="FedAvg holds no strategy as its strategy"):
        restore(FedAvg(), state)


def test_what_cannot_be_saved_is_named_where_it_is() -> None:
    inner = FedAvg()
    inner.source = object()  # type: ignore[attr-defined]

    with pytest.raises(StateError, match=r"Wrapper\.strategy\.source: a object cannot"):
        state_of(Wrapper(inner))


def test_two_that_hold_each_other_are_two() -> None:
    outer = Wrapper(FedAvg())
    outer.strategy.outer = outer  # type: ignore[attr-defined]

    assert list(strategies_in(outer)) == ["", "strategy."]


# Two at once


class NASFirst(FedMetaNAS, FedAdam): ...


class AdamFirst(FedAdam, FedMetaNAS): ...


class Both(FedMetaNAS, FedAdam):
    def aggregate_train(self, server_round: int, replies: Replies) -> Aggregated:
        return FedMetaNAS.aggregate_train(self, server_round, replies)


@pytest.mark.parametrize("name", ["NASFirst", "AdamFirst"])
def test_a_class_that_would_aggregate_in_one_way_of_two_is_refused(name: str) -> None:
    with pytest.raises(StrategyError) as caught:
        make_strategy(f"{__name__}:{name}", {}, tiny.experiment_of().plan)

    words = f"strategy.name: {__name__}:{name}: {name} is both FedMetaNAS and FedAdam, which "
    assert str(caught.value).startswith(words)
    assert len(str(caught.value).splitlines()) == 1


class Trees(Wrapper):
    """Holds, in another, what cannot work."""

    def __init__(self) -> None:
        super().__init__(Wrapper(FedXgbCyclic()))


def test_what_is_made_in_code_is_looked_at_as_well() -> None:
    with pytest.raises(StrategyError, match="Trees: FedXgbCyclic hands trees of XGBoost on"):
        make_strategy(f"{__name__}:Trees", {}, tiny.experiment_of().plan)


def test_a_class_that_says_how_it_aggregates_is_taken() -> None:
    assert isinstance(make_strategy(f"{__name__}:Both", {}, tiny.experiment_of().plan), Both)


# What is said


class Unserved(FedMetaNAS):
    """Sends, in its second round, what no client knows."""

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Replies:
        if server_round == 2:
            config["warm-restarts"] = 3
        return super().configure_train(server_round, arrays, config, grid)


def test_a_setting_that_clients_do_not_know_is_never_sent() -> None:
    listener = tiny.Listener()

    with pytest.raises(StrategyError, match="sends warm-restarts, which clients here do not know"):
        tiny.run_search(strategy=Unserved(tiny.experiment_of().plan), hooks=[listener])

    assert len(listener.rounds) == 1


def test_the_round_of_what_is_not_served_is_named() -> None:
    with pytest.raises(StrategyError, match=r"fedmetanas, in round 2, sends warm-restarts, "):
        tiny.run_search(strategy=Unserved(tiny.experiment_of().plan))


class Sends(FedAvg):
    """Sends something more, or something less, than federated averaging does."""

    def __init__(self, more: dict[str, Any], records: int = 1) -> None:
        super().__init__(min_train_nodes=1, min_evaluate_nodes=1, min_available_nodes=1)
        self.more, self.records = more, records

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Replies:
        config.update(self.more)
        messages = list(super().configure_train(server_round, arrays, config, grid))
        for message in messages:
            for number in range(1, self.records):
                message.content[f"{number}"] = ConfigRecord({"learner": "sgd"})
            if not self.records:
                message.content.pop("config", None)  # all messages share their content
        return messages


class SendsAndSays(Sends):
    """Tells the server as well what is alive."""

    def round_config(self, server_round: int) -> dict[str, Any]:
        return self.more


WHOLE = wire.round_config(0.5, Mask.full(tiny.experiment_of().topology))
PART = {key: value for key, value in WHOLE.items() if key != wire.MASK_KEYS[1]}


@pytest.mark.parametrize(
    ("cls", "options", "words"),
    [
        (Sends, [{"partition-id": 0}], "sends partition-id, which clients here do not know"),
        (Sends, [{"mask/elsewhere": [True]}], "sends mask/elsewhere, which clients here do not"),
        (SendsAndSays, [PART], f"sends a mask without {wire.MASK_KEYS[1]}$"),
        (Sends, [{}, 2], "sends ArrayRecord, ConfigRecord, ConfigRecord in a message; clients"),
        (Sends, [{}, 0], "sends ArrayRecord in a message; clients here read one"),
        (Sends, [{"phase": "training"}], "sends phase, which the server goes by as well; return"),
        (Sends, [{"tau": 0.5}], r"sends tau, .* a method round_config\(server_round\)"),
        (Sends, [WHOLE], "sends tau, mask/"),
    ],
)
def test_what_no_client_or_no_server_would_read_is_not_sent(
    cls: type[Sends], options: list[Any], words: str
) -> None:
    with pytest.raises(StrategyError, match=words) as caught:
        tiny.run_search(strategy=cls(*options))

    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(("cls", "more"), [(Sends, {"learner": "sgd"}), (SendsAndSays, WHOLE)])
def test_what_clients_and_the_server_read_is_sent(cls: type[Sends], more: dict[str, Any]) -> None:
    assert tiny.run_search("rounds=1", strategy=cls(more)).summary["operations"] == 4


def test_too_few_replies_for_a_strategy_end_the_run_with_its_warning_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bulyan = ["strategy.name=flwr.serverapp.strategy:Bulyan", "clients=2"]

    assert run(tmp_path, *bulyan) == 1

    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith("warning: Insufficient replies, skipping Bulyan aggregation")
    assert said[1] == (
        "fedmetanas: strategy.name: flwr.serverapp.strategy:Bulyan made nothing of the 2 replies "
        "of round 1"
    )
    assert len(said) == 3  # and the command that goes on
    assert not (tmp_path / "run" / "summary.json").exists()


def test_a_warning_is_said_once_and_nothing_else_of_flower(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "flwr.serverapp.strategy:DifferentialPrivacyServerSideFixedClipping"
    numbers = {"noise_multiplier": 0.01, "clipping_norm": 9.0, "num_sampled_clients": 7}

    assert run(tmp_path, *around("fedmetanas", name, **numbers)) == 0

    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert said[0].startswith("warning: The number of clients returning parameters (3) differs")


class Returns(FedMetaNAS):
    """Returns something else than a pair of records."""

    def __init__(self, plan: SearchPlan, what: str) -> None:
        super().__init__(plan)
        self.what = what

    def aggregate_train(self, server_round: int, replies: Replies) -> Any:
        arrays, metrics = super().aggregate_train(server_round, replies)
        return {"none": None, "pair": (None, metrics), "arrays": arrays, "swap": (metrics, arrays)}[
            self.what
        ]


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("none", "made nothing of the 3 replies of round 1"),
        ("pair", "made nothing of the 3 replies of round 1"),
        ("arrays", "MetricRecord; found ArrayRecord, in round 1"),
        ("swap", "MetricRecord; found MetricRecord, ArrayRecord, in round 1"),
    ],
)
def test_what_is_no_pair_of_records_ends_the_run_in_a_line(
    what: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = [f"strategy.name={__name__}:Returns", f"strategy.options.what={what}"]

    assert run(tmp_path, *chosen) == 1

    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith(f"fedmetanas: strategy.name: {__name__}:Returns")
    assert said[0].endswith(words)
    assert len(said) <= 2  # and the command that goes on


class Loses(FedMetaNAS):
    """Spoils its second result: it drops, adds or bends arrays."""

    def __init__(self, plan: SearchPlan, how: str) -> None:
        super().__init__(plan)
        self.how = how

    def aggregate_train(self, server_round: int, replies: Replies) -> Aggregated:
        record, metrics = super().aggregate_train(server_round, replies)
        assert record is not None
        arrays = wire.from_record(record)
        key = next(key for key in arrays if ".edges." in key)
        if server_round == 2 and self.how == "alphas":
            del arrays["alphas/op_reduce"]
        elif server_round == 2 and self.how == "weights":
            del arrays[key]
        elif server_round == 2 and self.how == "more":
            arrays["weights/more"] = arrays[key]
        elif server_round == 2:
            arrays[key] = arrays[key][..., None]
        return wire.to_record(arrays), metrics


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("alphas", "lost alphas/op_reduce, which is alive, in round 2"),
        ("weights", r"lost weights/cells\..*, which is alive, in round 2"),
        ("more", "made weights/more, which was not there before, in round 2"),
        ("shape", r"made weights/cells.* of the shape \(.*\); expected \(.*\), in round 2"),
    ],
)
def test_a_model_of_other_arrays_ends_the_run_in_a_line_before_its_checkpoint(
    how: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = [f"strategy.name={__name__}:Loses", f"strategy.options.how={how}"]

    assert run(tmp_path, *chosen, "checkpoint.every=1") == 1

    said = capsys.readouterr().err.splitlines()
    assert re.fullmatch(f"fedmetanas: strategy.name: {__name__}:Loses {words}", said[0])
    assert len(said) == 2  # and the command that goes on
    saved = [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()]
    assert saved == ["round-00001.safetensors"]


class Silent(FedMetaNAS):
    """Says nothing of losses in its first round, and then what is no number."""

    def aggregate_train(self, server_round: int, replies: Replies) -> Aggregated:
        record, _ = super().aggregate_train(server_round, replies)
        if server_round == 1:
            return record, None
        return record, MetricRecord({"loss": float("nan"), "accuracy": [0.5]})


def test_what_a_strategy_does_not_measure_is_null(tmp_path: Path) -> None:
    assert run(tmp_path, f"strategy.name={__name__}:Silent", "rounds=2") == 0

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    text = (tmp_path / "run" / "metrics.jsonl").read_text()
    lines = [json.loads(line, parse_constant=refuse) for line in text.splitlines()]
    assert [line["train_loss"] for line in lines] == [None, None]
    assert [line["train_accuracy"] for line in lines] == [None, None]
    assert all(line["seconds"]["total"] > 0 for line in lines)


class Counting(FedMetaNAS):
    """Asks clients before its first round, which cannot be tried beforehand."""

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Replies:
        messages = list(super().configure_train(server_round, arrays, config, grid))
        self.answers = len(list(grid.send_and_receive(messages)))
        return messages


def test_a_strategy_that_asks_clients_first_is_tried_as_far_as_it_goes(tmp_path: Path) -> None:
    assert run(tmp_path, f"strategy.name={__name__}:Counting", "rounds=1") == 0
    assert load_file(tmp_path / "run" / "weights.safetensors")
