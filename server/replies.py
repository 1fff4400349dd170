"""What a reply must be before it touches the model; all else is left out, with the reason."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TypeVar

import numpy as np
from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Error,
    Message,
    MessageType,
    MetricRecord,
    RecordDict,
)

from fedmetanas.errors import RunError
from fedmetanas.experiments.code_digest import DIGEST
from fedmetanas.experiments.console import one_line, printable
from fedmetanas.strategies import wire
from fedmetanas.strategies.aggregation import AnyArray
from fedmetanas.strategies.npy import forms, from_array, to_array

Record = TypeVar("Record", ArrayRecord, MetricRecord, ConfigRecord)

NORM_LIMIT = 100.0  # times the norm of what was sent, or 1 if that is more: no training does that
METRICS = {
    MessageType.TRAIN: {*wire.MEASURES, "seconds", "worker"},
    MessageType.EVALUATE: {
        *("num-examples", "loss", "accuracy-before", "accuracy-after", "seconds", "worker")
    },
    MessageType.QUERY: {"num-examples", wire.LOSSES, "seconds", "worker"},
}
UNAVAILABLE = (3, 4, 5)  # of Flower's error codes: message, reply or node
LARGEST = 1e300  # of any metric
FLOATS = (np.dtype(np.float32), np.dtype(np.float64))
NUMPY = "numpy.ndarray"  # the one form of an array that Flower writes
LONGEST_LINE = 300  # characters of a client's that are shown
LONGEST_TRACE = 20_000
CHANGED = "its images have changed since the run began"


@dataclass(frozen=True)
class LeftOut:
    """A reply that was left out: one entry of ``left_out`` in ``metrics.jsonl``.

    Attributes
    ----------
    client : int
        Its partition id.
    stage : {"train", "evaluate", "query"}
        What it was asked to do.
    reason : str
        One line.
    """

    client: int
    stage: str
    reason: str


class BadReplyError(ValueError):
    """A reply is not what it must be. The message is one line.

    Parameters
    ----------
    reason : str
        The message.
    trace : str
        The client's own traceback, if it sent one.
    """

    def __init__(self, reason: str, trace: str = "") -> None:
        super().__init__(reason)
        self.trace = trace


class UnavailableError(BadReplyError):
    """Flower says in place of a reply that the node is gone."""


class OtherCodeError(RunError):
    """A client runs other code than the server, and none of its numbers mean what they seem to."""

    def __init__(self, client: int) -> None:
        super().__init__(
            f"client {client} runs another version of fedmetanas than the server; install the same "
            "on all machines, and start a simulation outside of other copies of it"
        )


class Expected:
    """The arrays that clients were sent, and what a check of replies must know of them.

    Parameters
    ----------
    sent : ArrayRecord
        As it was sent; the same record often goes to all clients.
    """

    def __init__(self, sent: ArrayRecord) -> None:
        self.sent = sent
        self.keys = set(sent)
        self.forms = forms(list(sent.values()))
        kinds = zip(("weights", "alphas"), wire.split(sent), strict=True)
        self.kinds = {kind: keys for kind, keys in kinds if keys}

    @cached_property
    def norms(self) -> dict[str, float]:
        """The norm of all weights, and of all alphas."""
        return {kind: _norm(wire.all_numbers(self.sent, ks)) for kind, ks in self.kinds.items()}


def checked(
    reply: Message,
    sent: Message,
    most_examples: int,
    expected: Callable[[ArrayRecord], Expected] = Expected,
    data: str = "",
) -> Message:
    """Check a reply against what was sent, and return it in the one form that strategies get.

    Strategies take records by their names and arrays by their places, so that a client which names
    or orders them in its own way would end the round, or mix arrays up.

    Parameters
    ----------
    reply : Message
        Of a client; of its own metadata nothing is believed.
    sent : Message
        What it answers.
    most_examples : int
        As many images as no client can have more of.
    expected : callable, optional
        Returns what is expected where a record of arrays was sent.
    data : str, optional
        The digest of the images with which the client took part at first, if it is known.

    Returns
    -------
    Message
        The records ``metrics`` and, in training, ``arrays``, with the keys as they were sent.

    Raises
    ------
    BadReplyError
        If the reply is an error, or its content is not what it must be.
    OtherCodeError
        If it does not carry the digest of this code.
    """
    if reply.has_error():
        if _said_code(reply.error.reason or "")[0] not in ("", DIGEST):
            raise OtherCodeError(sent.metadata.dst_node_id)
        raise _bad(reply.error)
    said = list(reply.content.config_records.values())
    if [record.get(wire.CODE) for record in said] != [DIGEST]:
        raise OtherCodeError(sent.metadata.dst_node_id)
    if data and said[0].get(wire.DATA) != data:
        raise BadReplyError(CHANGED)
    stage = sent.metadata.message_type
    metrics = _metrics(reply.content, METRICS[stage], most_examples)
    content = RecordDict({"metrics": metrics})
    if stage == MessageType.QUERY:
        _check_losses(metrics, next(iter(sent.content.config_records.values())))
    if stage == MessageType.TRAIN:
        arrays = next(iter(sent.content.array_records.values()))
        content["arrays"] = _arrays(reply.content, expected(arrays))
    return Message(content, reply_to=sent)


def said_by(reply: Message) -> ConfigRecord:
    """Return the settings in a reply to a hello.

    Raises
    ------
    BadReplyError
        If there are none.
    """
    if reply.has_error():
        if _said_code(reply.error.reason or "")[0] not in ("", DIGEST):
            raise BadReplyError("it runs another version of fedmetanas; install the server's")
        raise _bad(reply.error)
    return _the_only(list(reply.content.config_records.values()), "ConfigRecord")


def _bad(error: Error) -> BadReplyError:
    """Return what an error says that came in place of a reply."""
    trace = printable(_said_code(error.reason or "")[1])[-LONGEST_TRACE:].strip()
    trace = trace or "without a reason"
    line = trace.splitlines()[-1][:LONGEST_LINE]
    if error.code == wire.RAISED:
        return BadReplyError(line, trace)
    kind = UnavailableError if error.code in UNAVAILABLE else BadReplyError
    return kind(f"no reply: {line}")


def _said_code(reason: str) -> tuple[str, str]:
    """Return the digest with which an error begins, if it does, and what comes after it."""
    first, _, rest = reason.partition("\n")
    return (first, rest) if re.fullmatch("[0-9a-f]{64}", first) else ("", reason)


def brief(text: object) -> str:
    """Return what a client says, or has caused an error to say: one line, not at length."""
    return one_line(text)[:LONGEST_LINE]


def _metrics(content: RecordDict, expected: set[str], most_examples: int) -> MetricRecord:
    metrics = _the_only(list(content.metric_records.values()), "MetricRecord")
    if set(metrics) != expected:
        raise BadReplyError(f"metrics {_names(set(metrics) ^ expected)} are missing or too many")
    for key, value in metrics.items():
        low = -LARGEST if key == "worker" else 0
        high = 1 if key.startswith("accuracy") else LARGEST
        for one in value if key == wire.LOSSES and isinstance(value, list) else [value]:
            if not isinstance(one, int | float) or not low <= one <= high:  # nor is NaN between
                raise BadReplyError(f"{key}: expected {_range(low, high)}; found {brief(one)}")
    examples = metrics["num-examples"]
    if not isinstance(examples, int) or not 1 <= examples <= most_examples:
        raise BadReplyError(f"num-examples: expected 1 to {most_examples}; found {examples!r}")
    return metrics


def _check_losses(metrics: MetricRecord, asked: ConfigRecord) -> None:
    """Raise if there is not one loss for each network that was asked for."""
    losses, count = metrics[wire.LOSSES], asked[wire.FINALISTS]
    if not isinstance(losses, list) or len(losses) != count:
        found = str(len(losses)) if isinstance(losses, list) else brief(losses)
        raise BadReplyError(f"{wire.LOSSES}: expected a list of {count!r}; found {found}")


def _range(low: float, high: float) -> str:
    if high == LARGEST:
        return "a finite number" if low < 0 else f"a finite number, at least {low}"
    return f"a number from {low} to {high}"


def _arrays(content: RecordDict, expected: Expected) -> ArrayRecord:
    received = _the_only(list(content.array_records.values()), "ArrayRecord")
    if set(received) != expected.keys:
        names = _names(set(received) ^ expected.keys)
        raise BadReplyError(f"arrays {names} are missing or too many")
    received = wire.select(received, expected.sent)
    if forms(list(received.values())) != expected.forms:
        for key, wanted in expected.sent.items():
            received[key] = _in_form(key, received[key], wanted)
    for kind, keys in expected.kinds.items():
        norm = _norm(_read(partial(wire.all_numbers, received, keys)))
        if not math.isfinite(norm):
            raise BadReplyError(f"{kind} with NaN, infinity or enormous numbers")
        if norm > NORM_LIMIT * max(1.0, expected.norms[kind]):
            before = expected.norms[kind]
            raise BadReplyError(f"{kind} with the norm {norm:.3g}; those sent had {before:.3g}")
    return received


def _in_form(key: str, received: Array, wanted: Array) -> Array:
    """Return an array in the type and the order of what was sent, if it may be so."""
    array = _read(partial(from_array, received))
    if received.stype != NUMPY:
        raise BadReplyError(f"{key}: expected {NUMPY}; found {brief(received.stype)}")
    if array.dtype not in FLOATS:
        raise BadReplyError(f"{key}: expected floats; found {array.dtype}")
    like = from_array(wanted)
    if array.shape != like.shape:
        raise BadReplyError(f"{key}: expected the shape {like.shape}; found {array.shape}")
    with np.errstate(over="ignore"):  # what is beyond the type is infinite, and left out for it
        return to_array(array.astype(like.dtype))


def _read(reader: Callable[[], AnyArray]) -> AnyArray:
    try:
        return reader()
    except Exception as error:  # NumPy's reader raises almost anything on broken bytes
        raise BadReplyError(f"arrays that cannot be read: {brief(error)}") from None


def _norm(numbers: AnyArray) -> float:
    """Return the norm; infinity also where a square is beyond the array's type."""
    return math.sqrt(float(np.vdot(numbers, numbers)))


def _the_only(records: list[Record], kind: str) -> Record:
    if len(records) != 1:
        raise BadReplyError(f"expected one {kind}; found {len(records)}")
    return records[0]


def _names(names: set[str]) -> str:
    """Return some names, but not all of very many."""
    shown = ", ".join(brief(name) for name in sorted(names)[:3])
    return shown + (", ..." if len(names) > 3 else "")
