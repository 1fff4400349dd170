"""How the test accuracy of a run rose: with rounds, seconds and megabytes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedmetanas.errors import SettingsError

from . import run_folder


@dataclass(frozen=True)
class Point:
    """One measurement of the global test accuracy.

    Attributes
    ----------
    rounds : float
        Rounds so far.
    seconds : float
        Seconds of the algorithm so far, evaluation left out.
    megabytes : float
        Sent so far, up and down.
    accuracy : float
        In [0, 1].
    phase : str
        ``search`` or ``training``.
    """

    rounds: float
    seconds: float
    megabytes: float
    accuracy: float
    phase: str


def read_curve(folder: Path) -> list[Point]:
    """Return what a completed run measured; the last point is that of the network it ends with.

    Raises
    ------
    SettingsError
        If a file of the run is missing or damaged.
    """
    summary, lines = run_folder.read_summary(folder), run_folder.read_metrics(folder)
    try:
        return _points(lines, summary)
    except (KeyError, TypeError, AttributeError) as error:
        path = folder / run_folder.METRICS
        raise SettingsError(f"{path} is damaged: {error!r}; remove {folder} to go on") from None


def _points(lines: list[dict[str, Any]], summary: dict[str, Any] | None) -> list[Point]:
    points, seconds, megabytes = [], 0.0, 0.0
    rounds = [line["round"] for line in lines]
    if summary is not None and rounds != list(range(1, summary["rounds"] + 1)):
        raise KeyError("round")
    for line in lines:
        seconds += line["seconds"]["total"] - line["seconds"]["evaluation"]
        for way in ("bytes_down", "bytes_up"):
            megabytes += sum(line[way].values()) / 1e6
        accuracy = line["test_accuracy"]
        if summary is not None and line["round"] == summary["rounds"]:
            accuracy = summary["test_accuracy"]
        if accuracy is not None:
            points.append(Point(line["round"], seconds, megabytes, accuracy, line["phase"]))
    return points


def of_network(curve: list[Point]) -> list[Point]:
    """Return the points at which there is a network to use: where one is trained anew, only those.

    A search that trains what it finds anew measures its supernet before, which nobody gets.
    """
    trained = [point for point in curve if point.phase == "training"]
    return trained or curve


def seconds_to(curve: list[Point], accuracy: float) -> float | None:
    """Return the seconds after which a network first had an accuracy; None if it never had."""
    reached = (point.seconds for point in of_network(curve) if point.accuracy >= accuracy)
    return next(reached, None)


def accuracy_at(curve: list[Point], seconds: float) -> float | None:
    """Return the last accuracy measured within some seconds; None if there was no network yet."""
    within = [point.accuracy for point in of_network(curve) if point.seconds <= seconds]
    return within[-1] if within else None
