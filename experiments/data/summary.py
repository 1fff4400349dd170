"""What was read, in a few lines for the person who starts a run."""

from collections.abc import Sequence

import numpy as np

from .registry import Dataset

MOST_CLASSES = 6  # that are named
MOST_REASONS = 5


def what_was_read(dataset: Dataset, sizes: Sequence[int]) -> list[str]:
    """Return lines that say which images there are and who has how many.

    Parameters
    ----------
    dataset : Dataset
        The images.
    sizes : sequence of int
        Number of images of each client.

    Returns
    -------
    list of str
        Images, classes, size and colour; sizes of clients, and what guessing the most frequent
        class of the test images would reach; if files were skipped, how many and why.
    """
    height, width, channels = dataset.train.images.shape[1:]
    colour = "colour" if channels == 3 else "grey"
    names = ", ".join(dataset.classes[:MOST_CLASSES])
    more = ", ..." if len(dataset.classes) > MOST_CLASSES else ""
    guessing = np.bincount(dataset.test.labels).max() / len(dataset.test.labels)
    lines = [
        f"{len(dataset.train.labels):,} training and {len(dataset.test.labels):,} test images, "
        f"{len(dataset.classes)} classes ({names}{more}), {width}x{height} pixels, {colour}"
        + _before(dataset),
        f"clients have {min(sizes):,} to {max(sizes):,} images; guessing the most frequent class "
        f"would reach {guessing:.3f} on the test images",
    ]
    skipped = dataset.reading.skipped if dataset.reading else {}
    if skipped:
        often = sorted(skipped.items(), key=lambda item: -item[1])
        words = [f"{count:,} {why}" for why, count in often[:MOST_REASONS]]
        rest = sum(count for _, count in often[MOST_REASONS:])
        lines.append("skipped: " + ", ".join(words) + (f", {rest:,} others" if rest else ""))
    return lines


def _before(dataset: Dataset) -> str:
    """Return what the files had before they were resized and converted, if that was done."""
    if dataset.reading is None:
        return ""
    (width, height), (widest, highest) = dataset.reading.smallest, dataset.reading.largest
    shape, grey = dataset.train.images.shape[1:], dataset.reading.grey
    facts = []
    if (height, width) != shape[:2] or (highest, widest) != shape[:2]:
        facts.append(f"{width}x{height} to {widest}x{highest}")
    if grey != (shape[2] == 1):
        facts.append("all grey" if grey else "with colours")
    return f" (files: {', '.join(facts)})" if facts else ""
