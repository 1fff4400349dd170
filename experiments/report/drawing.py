"""A picture of the two cells of a genotype, and how pictures are written."""

import io
from pathlib import Path
from typing import Any

from fedmetanas.experiments.files import write_file
from fedmetanas.search_space.alphas import CELL_TYPES
from fedmetanas.search_space.genotype import Genotype


def draw_cells(genotype: Genotype, path: Path) -> None:
    """Draw the normal and the reduction cell to a PNG file.

    Parameters
    ----------
    genotype : Genotype
        What to draw: inputs on the left, nodes in their order, the output on the right.
    path : Path
        The file to write.

    Raises
    ------
    UnwritableError
        If it cannot be written.
    """
    from matplotlib.figure import Figure  # slow to import, and only needed here

    nodes = len(genotype.normal)
    figure = Figure(figsize=(3.2 + 2.6 * nodes, 7.5), layout="constrained")
    for axes, cell_type in zip(figure.subplots(2, 1), CELL_TYPES, strict=True):
        places = [(0.0, 1.0), (0.0, -1.0)]
        places += [(1.3 + 1.4 * j, 0.6 if j % 2 else -0.6) for j in range(nodes)]
        output = (1.3 + 1.4 * nodes, 0.0)
        labels = ["cell k-2", "cell k-1", *(f"node {j}" for j in range(nodes))]
        for j, choices in enumerate(getattr(genotype, cell_type)):
            for name, predecessor in choices:
                _arrow(axes, places[predecessor], places[2 + j], name)
            _arrow(axes, places[2 + j], output, "")
        for (x, y), label in zip([*places, output], [*labels, "output"], strict=True):
            axes.text(x, y, label, ha="center", va="center", bbox={"boxstyle": "round", "fc": "w"})
        axes.set(title=f"{cell_type} cell", xlim=(-0.6, output[0] + 0.6), ylim=(-1.5, 1.5))
        axes.axis("off")
    write_picture(figure, path)


def write_picture(figure: Any, path: Path) -> None:
    """Write a figure of matplotlib to a PNG file, whole or not at all.

    Raises
    ------
    UnwritableError
        If it cannot be written; what was there before is still there.
    """
    picture = io.BytesIO()
    figure.savefig(picture, dpi=100, format="png")
    write_file(path, picture.getvalue())


def _arrow(axes, start: tuple[float, float], end: tuple[float, float], name: str) -> None:  # type: ignore[no-untyped-def]
    """Draw an edge with its operation's name on it."""
    style = {"arrowstyle": "->", "shrinkA": 24, "shrinkB": 24, "color": "0.35"}
    axes.annotate("", end, start, arrowprops=style)
    x, y = (start[0] + 1.2 * end[0]) / 2.2, (start[1] + 1.2 * end[1]) / 2.2
    axes.text(x, y, name, ha="center", va="center", fontsize=8, backgroundcolor="w")
