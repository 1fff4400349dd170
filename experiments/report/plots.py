"""The plots of a comparison: accuracy against seconds, rounds and megabytes."""

import statistics
from collections.abc import Sequence
from pathlib import Path

from fedmetanas.experiments.results.curves import Point, read_curve

from .drawing import write_picture
from .tables import Row, Spread

AXES = {
    "seconds": "seconds, evaluation left out",
    "rounds": "rounds",
    "megabytes": "MB up and down",
}
MARKERS = ".xs^"  # of the first ten curves, which have a colour each, the next ten, and so on


def draw_curves(rows: Sequence[Row], folder: Path) -> None:
    """Draw ``accuracy-<axis>.png`` for each axis: mean over seeds, one standard deviation shaded.

    Where a variant trains anew what it has found, its search is dashed: it has no network yet.

    Raises
    ------
    UnwritableError
        If a plot cannot be written.
    """
    from matplotlib.figure import Figure  # slow to import, and only needed here

    curves = {row.name: [read_curve(row.folders[seed]) for seed in row.summaries] for row in rows}
    for axis, words in AXES.items():
        figure = Figure(figsize=(10, 5), layout="constrained")
        axes = figure.subplots()
        for number, (name, runs) in enumerate(curves.items()):
            colour, marker = f"C{number % 10}", MARKERS[number // 10 % len(MARKERS)]
            label = name
            for phase in ("search", "training"):
                places, spreads = mean_curve(runs, axis, phase)
                if not places:
                    continue
                means = [s.mean for s in spreads]
                searched_first = phase == "search" and any(
                    p.phase == "training" for run in runs for p in run
                )
                style = "--" if searched_first else "-"
                axes.plot(places, means, style, marker=marker, color=colour, label=label)
                low, high = ([s.mean + sign * s.std for s in spreads] for sign in (-1, 1))
                axes.fill_between(places, low, high, color=colour, alpha=0.15)
                label = "_" + name  # matplotlib's sign for: not in the legend a second time
        axes.set(xlabel=words, ylabel="test accuracy")
        axes.grid(alpha=0.3)
        if any(curves.values()):
            figure.legend(loc="outside right upper")  # on the axes it would hide curves
        write_picture(figure, folder / f"accuracy-{axis}.png")


def mean_curve(
    runs: Sequence[Sequence[Point]], axis: str, phase: str
) -> tuple[list[float], list[Spread]]:
    """Return for each round measured the mean place on an axis, and the accuracies' spread.

    All runs of a variant measure in the same rounds.
    """
    together = [points for points in zip(*runs, strict=True) if points[0].phase == phase]
    places = [statistics.fmean(getattr(point, axis) for point in points) for points in together]
    return places, [Spread.of([point.accuracy for point in points]) for points in together]
