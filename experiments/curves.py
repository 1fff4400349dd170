"""How the test accuracy of a run rose: with rounds, seconds and megabytes."""

from dataclasses import dataclass
from pathlib import Path

from . import results


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
    summary = results.read_summary(folder)
    points, seconds, megabytes = [], 0.0, 0.0
    for line in results.read_metrics(folder):
        seconds += line["seconds"]["total"] - line["seconds"]["evaluation"]
        for way in ("bytes_down", "bytes_up"):
            megabytes += sum(line[way].values()) / 1e6
        accuracy = line["test_accuracy"]
        if summary is not None and line["round"] == summary["rounds"]:
            accuracy = summary["test_accuracy"]
        if accuracy is not None:
            points.append(Point(line["round"], seconds, megabytes, accuracy, line["phase"]))
    return points
