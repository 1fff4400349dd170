"""What a site tells the server of its images before the first round: this, and nothing else."""

import platform
from functools import cache
from importlib.metadata import version

import numpy as np

import fedmetanas
from fedmetanas.errors import DataError
from fedmetanas.experiments.code_digest import DIGEST
from fedmetanas.experiments.data.registry import Dataset, Reading

#: As Flower's records of settings hold them.
Scalar = int | float | str | bytes | bool
Fact = Scalar | list[int] | list[float] | list[str] | list[bytes] | list[bool]


def facts_of(dataset: Dataset, name: str, disclose: str) -> dict[str, Fact]:
    """Return what the server is told; there is no path and no name of a file in it.

    Parameters
    ----------
    dataset : Dataset
        The site's images.
    name : str
        Who the site is.
    disclose : {"counts", "none"}
        Whether the server learns how many training images each class has.

    Returns
    -------
    dict
        ``site``; ``train-images``, ``test-images``: how many; ``classes``: the names of those that
        have images, in the order of their labels; ``class-counts``: training images of each of
        them, only where they are disclosed; ``smallest-width``, ``smallest-height``,
        ``largest-width``, ``largest-height``: pixels, before anything was resized; ``grey``:
        whether all images are; ``data``: a digest of the images; ``versions``: a name and a version
        each; ``code``: a digest of this package.

    Raises
    ------
    DataError
        If the name of a class cannot be sent.
    """
    reading = dataset.reading or _as_stored(dataset)
    labels = dataset.train.labels, dataset.test.labels
    trained, tested = (np.bincount(part, minlength=len(dataset.classes)) for part in labels)
    there = [label for label in range(len(dataset.classes)) if trained[label] or tested[label]]
    for label in there:
        if not _is_text(dataset.classes[label]):
            raise DataError(f"the class {dataset.classes[label]!a} has no name in UTF-8; rename it")
    facts: dict[str, Fact] = {
        "site": name,
        "train-images": len(dataset.train.labels),
        "test-images": len(dataset.test.labels),
        "classes": [dataset.classes[label] for label in there],
    }
    if disclose == "counts":
        facts["class-counts"] = [int(trained[label]) for label in there]
    return facts | {
        "smallest-width": reading.smallest[0],
        "smallest-height": reading.smallest[1],
        "largest-width": reading.largest[0],
        "largest-height": reading.largest[1],
        "grey": reading.grey,
        "data": dataset.digest,
        "versions": list(versions()),
        "code": DIGEST,
    }


@cache
def versions() -> tuple[str, ...]:
    """Return what computes here, a name and a version each."""
    packages = [f"{name} {version(name)}" for name in ("flwr", "torch", "numpy")]
    own = f"fedmetanas {fedmetanas.__version__}"
    return (f"python {platform.python_version()}", *packages, own)


def _is_text(name: str) -> bool:
    """Return whether a name is whole characters, as that of a folder need not be."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _as_stored(dataset: Dataset) -> Reading:
    """Return what there was to read of a dataset that does not say so: its arrays."""
    height, width, channels = dataset.train.images.shape[1:]
    return Reading((width, height), (width, height), channels == 1)
