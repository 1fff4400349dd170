"""Decoding a dataset: its loader is run, and what it returns is checked."""

from dataclasses import replace

import numpy as np

from fedmetanas.errors import DataError

from .registry import DATASETS, Dataset, Reading, Source

SMALLEST_SIDE = 8  # pixels


def decode(source: Source) -> Dataset:
    """Run the loader of `source` and check what it returns.

    Returns
    -------
    Dataset
        It says what was read: if the loader does not, what the arrays say.

    Raises
    ------
    DataError
        If the dataset is unknown, missing or broken, has other classes or channels than were asked
        for, has a single class and nobody asked for this, or :func:`check` refuses it.
    """
    if source.name not in DATASETS:
        known = ", ".join(DATASETS)
        raise DataError(f"data.dataset: {source.name!r} is unknown; registered are {known}")
    dataset = DATASETS[source.name](source)
    check(dataset, source.name)
    _refuse_other_than_asked(dataset, source)
    if dataset.reading is None:
        height, width, channels = dataset.train.images.shape[1:]
        reading = Reading((width, height), (width, height), grey=channels == 1)
        dataset = replace(dataset, reading=reading)
    return dataset


def _refuse_other_than_asked(dataset: Dataset, source: Source) -> None:
    """Raise if a dataset has other classes or channels than were asked for, or a single class."""
    names, channels = ", ".join(dataset.classes), dataset.train.images.shape[3]
    if source.classes not in ((), dataset.classes):
        raise DataError(f"data.classes: {source.name} has the classes {names}, in this order")
    if source.channels not in (None, channels):
        raise DataError(
            f"data.channels: images of {source.name} have {channels}; found {source.channels}"
        )
    if not source.classes and len(dataset.classes) < 2:
        raise DataError(f"{source.name}: expected at least two classes, found one alone ({names})")


def check(dataset: Dataset, name: str) -> None:
    """Check types, shapes and ranges of a dataset.

    Raises
    ------
    DataError
        If an array is not as :class:`Images` says, train and test images differ in shape, a label
        has no class, or images are smaller than 8x8.
    """
    for part, images, labels in (
        ("train", dataset.train.images, dataset.train.labels),
        ("test", dataset.test.images, dataset.test.labels),
    ):
        if images.dtype != np.uint8 or images.ndim != 4:
            raise DataError(
                f"{name}: {part} images must be uint8 of shape (n, H, W, C), "
                f"not {images.dtype} of shape {images.shape}"
            )
        if labels.dtype != np.int64 or labels.shape != images.shape[:1] or not len(labels):
            raise DataError(
                f"{name}: {part} labels must be int64, one for each of {len(images)} images and "
                f"at least one, not {labels.dtype} of shape {labels.shape}"
            )
        if labels.min() < 0 or labels.max() >= len(dataset.classes):
            raise DataError(
                f"{name}: {part} labels must be 0 to {len(dataset.classes) - 1}, one for each "
                f"class, not {labels.min()} to {labels.max()}"
            )
    shape, other = dataset.train.images.shape[1:], dataset.test.images.shape[1:]
    if shape != other:
        raise DataError(f"{name}: train images have shape {shape}, test images {other}")
    if min(shape[:2]) < SMALLEST_SIDE:
        raise DataError(
            f"{name}: images of {shape[1]}x{shape[0]} pixels are too small; "
            f"at least {SMALLEST_SIDE}x{SMALLEST_SIDE} are needed"
        )
