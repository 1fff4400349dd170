"""What a reply must be before it touches the model; all else is left out, with the reason."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from flwr.app import ArrayRecord, Message, MessageType, MetricRecord, RecordDict

from strategies import wire
from strategies.aggregation import AnyArray

Record = TypeVar("Record", ArrayRecord, MetricRecord)

NORM_LIMIT = 100.0  # times the norm of what was sent; no training step multiplies a model by that
SMALL_NORM = 1000.0  # up to here a norm does no harm, and that of what was sent is not worked out
METRICS = {
    MessageType.TRAIN: {"num-examples", "loss", "accuracy", "seconds", "worker"},
    MessageType.EVALUATE: {
        *("num-examples", "loss", "accuracy-before", "accuracy-after", "seconds", "worker")
    },
}
RAISED = 2  # Flower's error code of an app that raised; its reason ends with the exception


@dataclass(frozen=True)
class LeftOut:
    """A reply that was left out: one entry of ``left_out`` in ``metrics.jsonl``.

    Attributes
    ----------
    client : int
        Its partition id.
    stage : {"train", "evaluate"}
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


def check(reply: Message, sent: RecordDict, most_examples: int) -> None:
    """Check a reply against what was sent.

    Parameters
    ----------
    reply : Message
        Of a client.
    sent : RecordDict
        What it answers.
    most_examples : int
        More images than a client can have.

    Raises
    ------
    BadReplyError
        If the reply is an error, or its content is not what it must be.
    """
    if reply.has_error():
        reason = reply.error.reason or "without a reason"
        line = reason.strip().splitlines()[-1][:300]
        if reply.error.code == RAISED:
            raise BadReplyError(line, trace=reason)
        raise BadReplyError(f"no reply: {line}")
    stage = reply.metadata.message_type
    _check_metrics(reply.content, METRICS[stage], most_examples)
    if stage == MessageType.TRAIN:
        _check_arrays(reply.content, next(iter(sent.array_records.values())))


def _check_metrics(content: RecordDict, expected: set[str], most_examples: int) -> None:
    metrics = _the_only(list(content.metric_records.values()), "MetricRecord")
    if set(metrics) != expected:
        raise BadReplyError(f"metrics {_names(set(metrics) ^ expected)} are missing or too many")
    for key, value in metrics.items():
        if not isinstance(value, int | float) or not math.isfinite(value):
            raise BadReplyError(f"{key}: expected a finite number; found {str(value)[:80]}")
    examples = metrics["num-examples"]
    if not isinstance(examples, int) or not 1 <= examples <= most_examples:
        raise BadReplyError(f"num-examples: expected 1 to {most_examples}; found {examples!r}")


def _check_arrays(content: RecordDict, sent: ArrayRecord) -> None:
    received = _the_only(list(content.array_records.values()), "ArrayRecord")
    if set(received) != set(sent):
        names = _names(set(received) ^ set(sent))
        raise BadReplyError(f"arrays {names} are missing or too many")
    try:
        arrays = wire.from_record(received)
    except Exception as error:  # NumPy's reader raises almost anything on broken bytes
        line = " ".join(str(error).split())[:200]
        raise BadReplyError(f"arrays that cannot be read: {line}") from None
    for key, array in arrays.items():
        if array.dtype not in (np.float32, np.float64):
            raise BadReplyError(f"{key}: expected floats; found {array.dtype}")
        if array.shape != sent[key].shape:
            raise BadReplyError(f"{key}: expected the shape {sent[key].shape}; found {array.shape}")
    norm = _norm(arrays)
    if not math.isfinite(norm):
        raise BadReplyError("arrays with NaN, infinity or enormous numbers")
    if norm > SMALL_NORM and norm > NORM_LIMIT * (before := _norm(wire.from_record(sent))):
        raise BadReplyError(f"arrays with the norm {norm:.3g}; those sent had {before:.3g}")


def _norm(arrays: Mapping[str, AnyArray]) -> float:
    """Return the norm of all entries; infinity also where a square is beyond the array's type."""
    # One by one, the calls for many small arrays take longer than the sum.
    flat = np.concatenate([array.ravel() for array in arrays.values()])
    return math.sqrt(float(np.vdot(flat, flat)))


def _the_only(records: list[Record], kind: str) -> Record:
    if len(records) != 1:
        raise BadReplyError(f"expected one {kind}; found {len(records)}")
    return records[0]


def _names(names: set[str]) -> str:
    """Return some names, but not all of very many."""
    return ", ".join(name[:80] for name in sorted(names)[:3]) + (", ..." if len(names) > 3 else "")
