"""Decoding a dataset: its loader is run, and what it returns is checked."""

import numpy as np

from fedmetanas.errors import DataError

from .registry import DATASETS, Dataset, Source

SMALLEST_SIDE = 8  # pixels


def decode(source: Source) -> Dataset:
    """Run the loader of `source` and check what it returns.

    Raises
    ------
    DataError
        If the dataset is unknown, missing or broken, or :func:`check` refuses it.
    """
    if source.name not in DATASETS:
        known = ", ".join(DATASETS)
        raise DataError(f"data.dataset: {source.name!r} is unknown; registered are {known}")
    dataset = DATASETS[source.name](source)
    check(dataset, source.name)
    return dataset


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
