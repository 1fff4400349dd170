"""Clients that fail: each is left out and named, and the model is that of the others."""

import json
import math
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable
from copy import copy
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import tiny
from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Context,
    Error,
    Message,
    MessageType,
    MetricRecord,
    RecordDict,
)
from flwr.serverapp import Grid
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from safetensors.torch import load_file
from test_checkpoint import metrics_of
from test_run import TINY, after_its_first_round, environment, fedmetanas, left_over  # noqa: F401

from fedmetanas.errors import RunError
from fedmetanas.experiments.code_digest import DIGEST
from fedmetanas.experiments.commands.main import main
from fedmetanas.experiments.engines.apps import CLIENT_APP, AppByName
from fedmetanas.experiments.engines.inline import InlineGrid
from fedmetanas.server import loop
from fedmetanas.server.app import app as server_app
from fedmetanas.server.loop import RoundResult, SearchResult, SearchState, search
from fedmetanas.server.nodes import AnyNode, ClientError, Known
from fedmetanas.server.partition_grid import PartitionGrid, draw
from fedmetanas.server.record import Record
from fedmetanas.server.replies import LeftOut
from fedmetanas.strategies import wire
from fedmetanas.strategies.fedmetanas import FedMetaNAS
from fedmetanas.strategies.npy import to_array

# What a client can do wrong: from an honest reply to training to a faulty one, or none.

Fault = Callable[[Message], Message | None]


def with_metrics(**changes: Any) -> Fault:
    """Change metrics, or remove those that are None."""

    def fault(reply: Message) -> Message:
        metrics = dict(reply.content["metrics"]) | {
            key.replace("_", "-"): value for key, value in changes.items()
        }
        kept = {key: value for key, value in metrics.items() if value is not None}
        content = RecordDict({**dict(reply.content), "metrics": MetricRecord(kept)})
        return answer(reply, content)

    return fault


def with_arrays(change: Callable[[dict[str, np.ndarray[Any, Any]]], Any]) -> Fault:
    """Change the arrays, each a copy."""

    def fault(reply: Message) -> Message:
        record = reply.content.array_records["arrays"]
        arrays = {key: array.copy() for key, array in wire.from_record(record).items()}
        change(arrays)
        content = RecordDict({**dict(reply.content), "arrays": wire.to_record(arrays)})
        return answer(reply, content)

    return fault


def answer(reply: Message, content: RecordDict) -> Message:
    """Return a message in the place of a reply."""
    changed = Message.__new__(Message)
    changed.__dict__.update(reply.__dict__)
    changed.__dict__["_content"] = content
    return changed


def error(reply: Message) -> Message:
    changed = answer(reply, RecordDict())
    changed.__dict__.update(_content=None, _error=Error(8, "its process is gone"))
    return changed


def raises(reply: Message) -> Message:
    changed = answer(reply, RecordDict())
    trace = 'Traceback (most recent call last):\n  File "x.py"\nValueError: no such scanner\n'
    changed.__dict__.update(_content=None, _error=Error(2, trace))
    return changed


def shouts(reply: Message) -> Message:
    changed = answer(reply, RecordDict())
    changed.__dict__.update(_content=None, _error=Error(8, 10**6 * "x\n" + "\x1b[31m" + 999 * "y"))
    return changed


def only_alphas(arrays: dict[str, Any]) -> dict[str, Any]:
    return {key: arrays[key] for key in arrays if key.startswith("alphas/")}


def first_key(arrays: dict[str, Any]) -> str:
    return min(key for key in arrays if arrays[key].size > 1)


def put(arrays: dict[str, Any], value: float) -> None:
    arrays[first_key(arrays)].reshape(-1)[-1] = value


def scale(arrays: dict[str, Any], factor: float) -> None:
    for key in arrays:
        arrays[key] = arrays[key] * np.float32(factor)


def broken_bytes(data: Callable[[bytes], bytes]) -> Fault:
    def fault(reply: Message) -> Message:
        record = dict(reply.content.array_records["arrays"])
        key = min(record)
        array = record[key]
        record[key] = Array(array.dtype, array.shape, array.stype, data(array.data))
        return answer(reply, RecordDict({**dict(reply.content), "arrays": ArrayRecord(record)}))

    return fault


def of_another_kind(reply: Message) -> Message:
    record = dict(reply.content.array_records["arrays"])
    key = min(record)
    record[key] = Array(record[key].dtype, record[key].shape, "torch.Tensor", record[key].data)
    return answer(reply, RecordDict({**dict(reply.content), "arrays": ArrayRecord(record)}))


def blank(reply: Message) -> Message:
    changed = answer(reply, RecordDict())
    changed.__dict__.update(_content=None, _error=Error(8, " \n"))
    return changed


def without_arrays(reply: Message) -> Message:
    return answer(reply, RecordDict({k: reply.content[k] for k in ("metrics", "config")}))


def two_records(reply: Message) -> Message:
    more = {"more": reply.content["arrays"]}
    return answer(reply, RecordDict({**dict(reply.content), **more}))


FAULTS: dict[str, tuple[Fault, str]] = {
    "raises": (raises, "ValueError: no such scanner"),
    "error": (error, "no reply: its process is gone"),
    "silent": (lambda reply: None, "no reply within 0.2 s (engine.timeout)"),
    "nan": (with_arrays(lambda a: put(a, math.nan)), "NaN"),
    "infinity": (with_arrays(lambda a: put(a, -math.inf)), "infinity"),
    "enormous": (with_arrays(lambda a: put(a, 1e30)), "enormous"),
    "norm": (with_arrays(lambda a: scale(a, 1000)), "weights with the norm"),
    "norm of the alphas": (with_arrays(lambda a: put(only_alphas(a), 900)), "alphas with the norm"),
    "shape": (with_arrays(lambda a: a.update({first_key(a): np.ones(7)})), "expected the shape"),
    "integers": (with_arrays(lambda a: a.update({k: a[k].astype(int) for k in a})), "int64"),
    "missing": (with_arrays(lambda a: a.pop(first_key(a))), "missing"),
    "steers": (with_arrays(lambda a: a.update({"a\n\x1b[2J": np.ones(1)})), "a ?[2J are missing"),
    "shouts": (shouts, "no reply: ?[31myyy"),
    "extra": (with_arrays(lambda a: a.update({"../etc": np.ones(1)})), "../etc"),
    "no arrays": (without_arrays, "expected one ArrayRecord; found 0"),
    "two records": (two_records, "expected one ArrayRecord; found 2"),
    "cut off": (broken_bytes(lambda data: data[:-3]), "cannot be read"),
    "empty": (broken_bytes(lambda data: b""), "cannot be read"),
    "pickle": (broken_bytes(lambda data: b"\x80\x04K\x01."), "cannot be read"),
    "no examples": (with_metrics(num_examples=0), "num-examples"),
    "negative": (with_metrics(num_examples=-5), "num-examples"),
    "absurd": (with_metrics(num_examples=10**9), "num-examples"),
    "half": (with_metrics(num_examples=2.5), "num-examples"),
    "list": (with_metrics(num_examples=[3, 4]), "num-examples"),
    "loss": (with_metrics(loss=math.nan), "loss: expected a finite number, at least 0; found nan"),
    "negative loss": (with_metrics(loss=-0.5), "loss: expected a finite number, at least 0"),
    "enormous loss": (with_metrics(loss=10**400), "loss: expected a finite number, at least 0"),
    "accuracy": (with_metrics(accuracy=1e9), "accuracy: expected a number from 0 to 1"),
    "zip": (broken_bytes(lambda data: b"PK\x05\x06" + bytes(18)), "cannot be read"),
    "another kind": (of_another_kind, "expected numpy.ndarray; found torch.Tensor"),
    "blank": (blank, "no reply: without a reason"),
    "no metric": (with_metrics(accuracy=None), "metrics accuracy are missing"),
    "more metrics": (with_metrics(bonus=1.0), "metrics bonus are missing or too many"),
}


class FaultyGrid(InlineGrid):
    """The inline engine with clients that do something wrong when they train."""

    def __init__(self, faulty: Iterable[int], fault: Fault, settings: Any) -> None:
        run_config = {"settings": settings.to_yaml()}
        app = AppByName(CLIENT_APP, run_config)
        self.faulty, self.fault = set(faulty), fault

        def client_app(message: Message, context: Context) -> Message | None:
            reply = app(message, context)
            (config,) = message.content.config_records.values()
            training = message.metadata.message_type == MessageType.TRAIN
            if training and config["partition-id"] in self.faulty:
                return self.fault(reply)
            return reply

        super().__init__(client_app, tiny.context_of(run_config))  # type: ignore[arg-type]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies that there are."""
        return [reply for reply in super().pull_messages(message_ids) if reply is not None]


# Operations die early, but some edges stay undecided: every round sends alphas.
SETTINGS = (
    *("clients=10", "rounds=5", "evaluation.every=9", "engine.timeout=0.2"),
    *("search.operation_threshold=0.333", "search.tau_end=0.01"),
)
FAULTY = (2, 3, 7)


def searched(grid: InlineGrid, folder: Path, *overrides: str) -> SearchResult:
    opened, strategy = tiny.experiment_of(*overrides), tiny.strategy_of(*overrides)
    folder.mkdir(exist_ok=True)
    return search(grid, strategy, opened, [Record(folder, opened, strategy)])


@pytest.fixture(scope="module")
def without_them() -> SearchResult:
    """A search in which the faulty clients are never drawn."""

    def others(*arguments: int) -> list[int]:
        return [client for client in draw(*arguments) if client not in FAULTY]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "draw", others)
        return tiny.run_search(*SETTINGS)


SHORT = ("raises", "silent", "nan", "shape", "absurd", "norm")


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n in SHORT else pytest.mark.soak) for n in FAULTS]
)
def test_the_result_is_that_of_a_run_without_the_faulty_clients(
    name: str, without_them: SearchResult, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    fault, words = FAULTS[name]

    result = searched(FaultyGrid(FAULTY, fault, tiny.settings_of(*SETTINGS)), tmp_path, *SETTINGS)

    assert tiny.same_bits(result.weights, without_them.weights)
    assert result.genotype == without_them.genotype
    lines = metrics_of(tmp_path)
    assert [line["round"] for line in lines] == [1, 2, 3, 4, 5]
    said = capfd.readouterr().err
    for line in lines:
        assert [left["client"] for left in line["left_out"]] == list(FAULTY)
        for left in line["left_out"]:
            assert left["stage"] == "train"
            assert words in left["reason"]
            assert left["reason"].isprintable()
            assert len(left["reason"]) < 400
            named = f"round {line['round']}: client {left['client']} left out of train: "
            assert named in said
    assert said.count("Traceback") == (name == "raises")  # once, not fifteen times


def in_form(form: Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]) -> Fault:
    """Send the same numbers in another form, as Flower itself writes it."""

    def fault(reply: Message) -> Message:
        values = wire.from_record(reply.content.array_records["arrays"])
        arrays = ArrayRecord({key: Array(form(array)) for key, array in values.items()})
        return answer(reply, RecordDict({**dict(reply.content), "arrays": arrays}))

    return fault


@pytest.mark.parametrize("form", [np.asfortranarray, lambda a: a.astype(np.float64)])
def test_numbers_in_another_form_are_as_good(form: Any, tmp_path: Path) -> None:
    grid = FaultyGrid(FAULTY, in_form(form), tiny.settings_of(*SETTINGS))

    result = searched(grid, tmp_path, *SETTINGS)

    assert tiny.same_bits(result.weights, tiny.run_search(*SETTINGS).weights)
    assert [line["left_out"] for line in metrics_of(tmp_path)] == [[]] * 5


# The view, reply by reply


def honest(message: Message) -> Message:
    """Answer with what came, changed a little."""
    arrays = wire.from_record(message.content.array_records["arrays"])
    record = wire.to_record({key: array * np.float32(1.5) for key, array in arrays.items()})
    metrics = {"num-examples": 7, "loss": 1.0, "accuracy": 0.5, "seconds": 0.1, "worker": 4}
    code = ConfigRecord({"code": DIGEST})
    content = RecordDict({"arrays": record, "metrics": MetricRecord(metrics), "config": code})
    return Message(content, reply_to=message)


class Nodes(InlineGrid):
    """A node that answers as the test says; None is silence."""

    def __init__(self, reply: Callable[[int, Message], Message | None]) -> None:
        def client_app(message: Message, context: Context) -> Message | None:
            (config,) = message.content.config_records.values()
            partition_id = config["partition-id"]
            assert isinstance(partition_id, int)
            return reply(partition_id, message)

        super().__init__(client_app, tiny.context_of({}))  # type: ignore[arg-type]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies that there are."""
        return [reply for reply in super().pull_messages(message_ids) if reply is not None]


def any_node(grid: Grid, timeout: float = 0.2, min_nodes: int = 1) -> AnyNode:
    return AnyNode(grid, timeout, min_nodes, lambda client: Known(f"client {client}", 100, 100))


def ask(
    grid: InlineGrid,
    needed: int = 0,
    timeout: float = 0.2,
    clients: Iterable[int] = (1, 4, 9),
    min_nodes: int = 1,
) -> tuple[list[int], list[LeftOut], list[str]]:
    """Send clients a message; return how many answered well, who is left out, and tracebacks."""
    traces: list[str] = []
    view = PartitionGrid(
        *(grid, any_node(grid, timeout, min_nodes), list(clients), timeout, needed),
        lambda left, trace: traces.append(trace),
    )
    replies = list(view.send_and_receive(messages(clients)))
    return [len(reply.content) for reply in replies], view.left_out, traces


def messages(clients: Iterable[int]) -> list[Message]:
    arrays = {"weights/w": np.arange(1, 13, dtype=np.float32), "alphas/a": np.ones(2, np.float32)}
    content = RecordDict({"arrays": wire.to_record(arrays), "config": ConfigRecord()})
    return [Message(content, client, MessageType.TRAIN) for client in clients]


@pytest.mark.parametrize("name", FAULTS)
def test_a_faulty_reply_is_left_out_and_named(name: str) -> None:
    fault, words = FAULTS[name]

    def reply(client: int, message: Message) -> Message | None:
        return fault(honest(message)) if client == 4 else honest(message)

    good, left_out, _ = ask(Nodes(reply))

    assert good == [2, 2]
    assert [(left.client, left.stage) for left in left_out] == [(4, "train")]
    assert words in left_out[0].reason
    assert left_out[0].reason.isprintable()
    assert len(left_out[0].reason) < 400


def test_honest_replies_are_all_taken() -> None:
    assert ask(Nodes(lambda client, message: honest(message)))[:2] == ([2, 2, 2], [])


def test_strategies_get_all_replies_in_the_form_in_which_they_were_sent() -> None:
    def reply(client: int, message: Message) -> Message:
        good = honest(message)
        turned = ArrayRecord(dict(reversed(list(good.content["arrays"].items()))))
        renamed = {"m": good.content["metrics"], "a": turned, "c": good.content["config"]}
        changed = answer(good, RecordDict(renamed))
        changed.__dict__["_metadata"] = copy(good.metadata)
        changed.metadata.__dict__["_message_type"] = "query"
        return changed if client == 4 else good

    nodes = Nodes(reply)
    view = PartitionGrid(nodes, any_node(nodes), [1, 4, 9], 0.2, 0, lambda left, trace: None)
    replies = list(view.send_and_receive(messages((1, 4, 9))))

    assert [one.metadata.src_node_id for one in replies] == [1, 4, 9]
    for one in replies:
        assert set(one.content) == {"arrays", "metrics"}
        arrays = wire.from_record(one.content.array_records["arrays"])
        assert list(arrays) == ["weights/w", "alphas/a"]
        np.testing.assert_array_equal(arrays["weights/w"], 1.5 * np.arange(1, 13))


@pytest.mark.parametrize("lie", ["float64", "columns", "type", "shape"])
def test_strategies_get_all_arrays_in_the_form_in_which_they_were_sent(lie: str) -> None:
    def reply(client: int, message: Message) -> Message:
        good = honest(message)
        if client == 4:
            record = good.content.array_records["arrays"]
            matrix = wire.from_record(record)["weights/w"]
            array = {
                "float64": Array(matrix.astype(np.float64)),
                "columns": Array(np.asfortranarray(matrix)),
                "type": Array("object", (3, 4), "numpy.ndarray", record["weights/w"].data),
                "shape": Array("float32", (99, 99), "numpy.ndarray", record["weights/w"].data),
            }[lie]
            record["weights/w"] = array
        return good

    sent = messages((1, 4, 9))
    for message in sent:
        matrix = np.arange(1, 13, dtype=np.float32).reshape(3, 4)
        message.content.array_records["arrays"]["weights/w"] = to_array(matrix)
    nodes = Nodes(reply)
    view = PartitionGrid(nodes, any_node(nodes), [1, 4, 9], 0.2, 0, lambda left, trace: None)

    first, second, third = (
        one.content["arrays"]["weights/w"] for one in view.send_and_receive(sent)
    )

    assert first == second == third


def nested(content: bytes) -> bytes:
    """Return an object of Flower's whose JSON is nested too deep to be read."""
    kind = content.split(b" ")[0]
    return kind + b"  100000\0" + 100_000 * b"["


@pytest.mark.parametrize(
    ("kind", "damage"),
    [
        *((kind, lambda content: content[:-3]) for kind in ("Message", "MetricRecord", "Array")),
        *((kind, nested) for kind in ("RecordDict", "ArrayRecord", "Array")),
    ],
)
def test_bytes_that_flower_cannot_decode_cost_one_reply(
    kind: str, damage: Callable[[bytes], bytes]
) -> None:
    broken = 4

    class Wire(Nodes):
        """Decodes what it pulls as Flower's HTTP grid does, all or nothing."""

        def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
            decoded = []
            for reply in super().pull_messages(message_ids):
                objects = get_all_nested_objects(reply)
                contents = {name: one.deflate() for name, one in objects.items()}
                if reply.metadata.src_node_id == broken:
                    of_kind = [n for n, one in objects.items() if type(one).__name__ == kind]
                    contents[of_kind[0]] = damage(contents[of_kind[0]])
                decoded.append(inflate_object_from_contents(reply.object_id, contents))
            return cast(list[Message], decoded)

    def reply(client: int, message: Message) -> Message:
        good = honest(message)
        good.metadata.__dict__["_src_node_id"] = client
        return good

    good, left_out, _ = ask(Wire(reply))

    assert good == [2, 2]
    assert [left.client for left in left_out] == [broken]
    assert "cannot be decoded" in left_out[0].reason


def test_an_answer_to_nothing_that_was_asked_is_passed_over() -> None:
    class Chatty(Nodes):
        def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
            replies = list(super().pull_messages(message_ids))
            strange = [answer(reply, reply.content) for reply in replies[:1]]
            for reply in strange:
                reply.__dict__["_metadata"] = copy(reply.metadata)
                reply.metadata.__dict__["_reply_to_message_id"] = "unknown"
            return strange + replies

    assert ask(Chatty(lambda client, message: honest(message)))[:2] == ([2, 2, 2], [])


def test_a_norm_is_judged_by_what_was_sent() -> None:
    factors = {1: 60.0, 4: 70.0, 9: 1.0}  # times 1.5: below 100, above, far below

    def reply(client: int, message: Message) -> Message | None:
        return with_arrays(lambda a: scale(a, factors[client]))(honest(message))

    assert [left.client for left in ask(Nodes(reply))[1]] == [4]


def test_the_others_are_asked_again_if_too_few_answer_well() -> None:
    asked: list[int] = []

    def reply(client: int, message: Message) -> Message | None:
        asked.append(client)
        first = client != 9 and asked.count(client) == 1
        return raises(honest(message)) if first else honest(message)

    good, left_out, _ = ask(Nodes(reply), needed=2)

    assert good == [2, 2, 2]
    assert sorted(asked) == [1, 1, 4, 4, 9]
    assert [left.client for left in left_out] == [1, 4]


def test_too_few_good_replies_again_are_an_error_that_names_all() -> None:
    def reply(client: int, message: Message) -> Message | None:
        return honest(message) if client == 4 else raises(honest(message))

    with pytest.raises(ClientError) as caught:
        ask(Nodes(reply), needed=2)

    assert str(caught.value) == (
        "only 1 of 3 clients gave a good reply, and min_replies asks for 2: "
        "client 1: ValueError: no such scanner; client 9: ValueError: no such scanner"
    )


def test_no_more_replies_are_needed_than_messages_were_sent() -> None:
    assert ask(Nodes(lambda client, message: honest(message)), needed=5)[0] == [2, 2, 2]


class Late(Nodes):
    """Nodes that connect one after the other, a few looks apart, up to a number."""

    looked = 0
    most = 3

    def get_node_ids(self) -> Iterable[int]:
        self.looked += 1
        return range(2, 2 + min(self.looked // 3, self.most))


def test_nodes_are_waited_for(capsys: pytest.CaptureFixture[str]) -> None:
    grid = Late(lambda client, message: honest(message))

    assert ask(grid, timeout=60.0, min_nodes=2)[0] == [2, 2, 2]
    assert capsys.readouterr().err == "".join(
        f"waiting: {count} of 2 nodes connected (engine.min_nodes)\n" for count in (0, 1)
    )


def test_nodes_that_do_not_come_are_an_error() -> None:
    grid = Late(lambda client, message: honest(message))
    words = r"^3 of 4 nodes connected \(engine\.min_nodes\) within 0\.2 s \(engine\.timeout\)$"

    with pytest.raises(ClientError, match=words):
        ask(grid, min_nodes=4)


# What is said


def test_a_traceback_is_said_once_though_addresses_differ(
    capsys: pytest.CaptureFixture[str],
) -> None:
    address = iter(range(10**6))

    def fails(reply: Message) -> Message:
        changed = answer(reply, RecordDict())
        trace = f"Traceback (most recent call last):\nValueError: <object at {hex(next(address))}>"
        changed.__dict__.update(_content=None, _error=Error(2, trace))
        return changed

    settings = ("clients=4", "rounds=3", "evaluation.every=9")
    grid = FaultyGrid((1, 2), fails, tiny.settings_of(*settings))
    search(grid, tiny.strategy_of(*settings), tiny.experiment_of(*settings), [])

    said = capsys.readouterr().err
    assert said.count("left out of train") == 6
    assert said.count("Traceback") == 1


# Evaluation


def test_clients_that_fail_when_measured_are_left_out_of_the_measurement(tmp_path: Path) -> None:
    broken = {1, 3}

    class Unmeasured(FaultyGrid):
        def __init__(self) -> None:
            super().__init__((), lambda reply: reply, tiny.settings_of("rounds=2"))
            honest_app = self.client_app

            def client_app(message: Message, context: Context) -> Message:
                reply = honest_app(message, context)
                (config,) = message.content.config_records.values()
                measured = message.metadata.message_type == MessageType.EVALUATE
                return raises(reply) if measured and config["partition-id"] in broken else reply

            self.client_app = client_app

    result = searched(Unmeasured(), tmp_path, "rounds=2")

    whole = tiny.run_search("rounds=2")
    assert tiny.same_bits(result.weights, whole.weights)
    first = metrics_of(tmp_path)[0]
    assert [(left["client"], left["stage"]) for left in first["left_out"]] == [(1, "evaluate")]
    assert first["client_accuracy"] is not None
    summary = result.summary
    assert [left["client"] for left in summary["left_out"]] == [1, 3]
    assert "client_accuracy_after" in summary
    assert "held_out_accuracy_after" not in summary  # client 3 was the only one


# The strategy


class Spoils(FedMetaNAS):
    """Makes one number of the second round's average infinite."""

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        record, metrics = super().aggregate_train(server_round, replies)
        assert record is not None
        arrays = {key: array.copy() for key, array in wire.from_record(record).items()}
        if server_round == 2:
            put(arrays, math.inf)
        return wire.to_record(arrays), metrics


class Idle(FedMetaNAS):
    """Asks nobody in the second round."""

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        asked = super().configure_train(server_round, arrays, config, grid)
        return asked if server_round == 1 else []


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (Spoils, "strategy.options: .* made alphas/input_normal NaN or infinite .* in round 2"),
        (Idle, "strategy.name: .* asks no client to train"),
    ],
)
def test_a_strategy_that_ruins_a_round_ends_the_run_with_the_checkpoint_before(
    kind: type[FedMetaNAS], words: str, tmp_path: Path
) -> None:
    overrides = ("rounds=3", "search.nodes=2")
    opened = tiny.experiment_of(*overrides)
    strategy = kind(opened.plan)

    with pytest.raises(RunError, match=words):
        tiny.run_search(*overrides, strategy=strategy, hooks=[Record(tmp_path, opened, strategy)])

    assert [line["round"] for line in metrics_of(tmp_path)] == [1]
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["round-00001.safetensors"]


class NoteClients:
    """A hook that notes who took part in each round."""

    def __init__(self) -> None:
        self.rounds: list[list[int]] = []

    def on_round(self, result: RoundResult, state: SearchState) -> None:
        self.rounds.append(result.clients)

    def on_end(self, result: SearchResult) -> None:
        pass


def test_clients_that_flowers_strategies_draw_are_a_function_of_the_seed() -> None:
    def drawn(seed: int) -> list[list[int]]:
        overrides = (f"seed={seed}", "clients=8", "strategy.name=flwr.serverapp.strategy:FedAvg")
        options = "strategy.options={fraction_train: 0.4}"
        note, before = NoteClients(), random.getstate()
        tiny.run_search(*overrides, options, "evaluation.every=9", hooks=[note])
        assert random.getstate() == before
        return note.rounds

    first = drawn(0)

    assert [len(clients) for clients in first] == [3, 3, 3]
    assert first == drawn(0)
    assert first != drawn(1)
    assert first[0] != first[1]


# Processes


FAULTY_APP = """
    import os
    import sys
    import time

    from fedmetanas.client.app import app as honest
    from fedmetanas.experiments.engines import ray
    from fedmetanas.experiments.commands import main

    class Faulty:
        def __call__(self, message, context):
            (config,) = message.content.config_records.values()
            if message.metadata.message_type == "train":
                if config["partition-id"] == 1:
                    hangs = "timeout: 20.0" in context.run_config["settings"]
                    time.sleep(10_000) if hangs else os._exit(1)
                if config["partition-id"] == 2:
                    # Within Flower's app, as a client's own code is.
                    message.content.config_records["config"]["learner"] = "none"
            return honest(message, context)

    app = Faulty()

    if __name__ == "__main__":
        ray.CLIENT_APP = "faulty_app:app"
        sys.exit(main.main(sys.argv[1:]))
"""


@pytest.mark.soak
@pytest.mark.parametrize(
    ("settings", "words"),
    [((), "no reply"), (("engine.timeout=20",), "no reply within 20 s (engine.timeout)")],
)
def test_a_run_goes_on_without_clients_that_die_or_hang_or_raise_in_every_round(
    settings: tuple[str, ...],
    words: str,
    environment: dict[str, str],  # noqa: F811
    tmp_path: Path,
) -> None:
    app = tmp_path / "faulty_app.py"
    app.write_text("\n".join(line.removeprefix("    ") for line in FAULTY_APP.splitlines()))
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    arguments = ["run", "digits", *TINY.split(), "min_replies=1", "engine.workers=2", *settings]
    done = subprocess.run(
        [sys.executable, str(app), *arguments, "--out", "out"],
        env={**environment, "PYTHONPATH": path},
        cwd=tmp_path,
        text=True,
        capture_output=True,
        timeout=300,
    )

    assert done.returncode == 0, done.stderr
    for line in metrics_of(tmp_path / "out"):
        assert [left["client"] for left in line["left_out"]] == [1, 2]
        assert words in line["left_out"][0]["reason"]
        assert "ValueError: learner" in line["left_out"][1]["reason"]
    assert f"round 1: client 1 left out of train: {words}" in done.stderr
    assert "round 2: client 2 left out of train: ValueError: learner" in done.stderr
    assert done.stderr.count("Traceback") == 1


def test_a_worker_that_is_killed_is_replaced_and_the_result_is_the_same(
    environment: dict[str, str],  # noqa: F811
    tmp_path: Path,
) -> None:
    arguments = ["run", "digits", *TINY.split(), "rounds=16", "engine.workers=2"]
    whole = fedmetanas(
        *arguments, "--engine", "inline", "--out", "whole", environment=environment, cwd=tmp_path
    )
    process = after_its_first_round([*arguments, "--out", "out"], environment, tmp_path)

    killed = [
        kill(folder) for folder in Path("/proc").glob("[0-9]*") if is_worker(folder, tmp_path)
    ]
    process.communicate(timeout=300)

    assert killed
    assert (whole.returncode, process.returncode) == (0, 0)
    assert metrics_of(tmp_path / "whole") == metrics_of(tmp_path / "out")
    weights = [(tmp_path / name / "weights.safetensors").read_bytes() for name in ("whole", "out")]
    assert weights[0] == weights[1]
    assert left_over(str(tmp_path)) == []


def is_worker(folder: Path, mark: Path) -> bool:
    """Return whether a process is one of the test's workers that run clients."""
    try:
        ours = f"RUN_OF_THE_TEST={mark}" in (folder / "environ").read_bytes().decode()
        return ours and "ClientAppActor" in (folder / "cmdline").read_text()
    except (OSError, UnicodeDecodeError):
        return False


def kill(folder: Path) -> str:
    os.kill(int(folder.name), signal.SIGKILL)
    return folder.name


# Too few, then enough


class Sicken:
    """A hook after whose first round a client is faulty."""

    def __init__(self, grid: FaultyGrid, client: int) -> None:
        self.grid, self.client = grid, client

    def on_round(self, result: RoundResult, state: SearchState) -> None:
        self.grid.faulty = {self.client}

    def on_end(self, result: SearchResult) -> None:
        raise AssertionError("it was to fail")


class SickFrom(FaultyGrid):
    """The inline engine with clients that send NaN from a round on."""

    def __init__(self, faulty: Iterable[int], first: int, settings: Any) -> None:
        def fault(reply: Message) -> Message | None:
            self.replies_seen += 1
            late = self.replies_seen > (first - 1) * len(self.faulty)
            return FAULTS["nan"][0](reply) if late else reply

        self.replies_seen = 0
        super().__init__(faulty, fault, settings)


def test_the_round_that_ends_a_run_is_in_its_metrics(tmp_path: Path) -> None:
    settings = tiny.settings_of("rounds=4", "min_replies=2")
    run_config = {"settings": settings.to_yaml(), "out": str(tmp_path / "out")}
    grid = SickFrom((0, 1), 3, settings)

    with pytest.raises(ClientError, match="only 1 of 3 clients"):
        server_app(grid, tiny.context_of(run_config))

    lines = (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()
    *finished, failed = [json.loads(line) for line in lines]
    assert [line["round"] for line in finished] == [1, 2]
    assert not any("error" in line for line in finished)
    assert failed["round"] == 3
    assert failed["error"].startswith("only 1 of 3 clients gave a good reply")
    assert [left["client"] for left in failed["left_out"]] == [0, 0, 1, 1]  # asked twice
    assert all("NaN" in left["reason"] for left in failed["left_out"])
    assert main(["run", "--resume", str(tmp_path / "out"), "--engine", "inline"]) == 0
    assert [line["round"] for line in metrics_of(tmp_path / "out")] == [1, 2, 3, 4]


def test_a_run_of_which_too_few_clients_are_left_fails_and_can_go_on(tmp_path: Path) -> None:
    overrides = ("rounds=3", "min_replies=3")
    opened, strategy = tiny.experiment_of(*overrides), tiny.strategy_of(*overrides)
    grid = FaultyGrid((), raises, opened.settings)
    hooks = [Record(tmp_path, opened, strategy), Sicken(grid, 1)]

    with pytest.raises(ClientError, match="only 2 of 3 clients"):
        search(grid, strategy, opened, hooks)

    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["round-00001.safetensors"]
    assert main(["run", "--resume", str(tmp_path), "--engine", "inline"]) == 0
    weights = load_file(tmp_path / "weights.safetensors")
    assert tiny.same_bits(weights, tiny.run_search(*overrides).weights)
