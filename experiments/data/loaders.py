"""The loaders of digits, which come with scikit-learn, and of the datasets of torchvision.

They import what they need themselves: opening a dataset from the cache must not cost the import of
torchvision and scikit-learn.
"""

from typing import Any

import numpy as np

from fedmetanas.errors import DataError
from fedmetanas.experiments.console import reason

from .registry import Dataset, Images, Source

DIGITS_SPLIT_SEED = 0  # the test set of digits is the same whatever the seed of a run
DIGITS_TEST_SHARE = 0.2
DIGITS_BRIGHTEST = 16


def digits(source: Source) -> Dataset:
    """Read scikit-learn's 1,797 handwritten digits of 8x8 pixels, 20% of them for testing."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    _refuse_image_size(source)
    bunch = load_digits()
    images = np.rint(bunch.images[..., None] * (255 / DIGITS_BRIGHTEST)).astype(np.uint8)
    train_images, test_images, train_labels, test_labels = train_test_split(
        images,
        bunch.target.astype(np.int64),
        test_size=DIGITS_TEST_SHARE,
        stratify=bunch.target,
        random_state=DIGITS_SPLIT_SEED,
    )
    classes = tuple(str(name) for name in bunch.target_names)
    return Dataset(Images(train_images, train_labels), Images(test_images, test_labels), classes)


def mnist(source: Source) -> Dataset:
    """Read MNIST (28x28 pixels, grey) from ``root/MNIST/raw``."""
    return _from_torchvision(source, "MNIST", "MNIST/raw")


def fashion_mnist(source: Source) -> Dataset:
    """Read Fashion-MNIST (28x28 pixels, grey) from ``root/FashionMNIST/raw``."""
    return _from_torchvision(source, "FashionMNIST", "FashionMNIST/raw")


def cifar10(source: Source) -> Dataset:
    """Read CIFAR-10 (32x32 pixels, colour) from ``root/cifar-10-batches-py``."""
    return _from_torchvision(source, "CIFAR10", "cifar-10-batches-py")


def cifar100(source: Source) -> Dataset:
    """Read CIFAR-100 (32x32 pixels, colour) from ``root/cifar-100-python``."""
    return _from_torchvision(source, "CIFAR100", "cifar-100-python")


def _refuse_image_size(source: Source) -> None:
    if source.image_size is not None:
        raise DataError(
            f"data.image_size: only imagefolder resizes its images; leave it out for {source.name}"
        )


def _from_torchvision(source: Source, reader: str, folder: str) -> Dataset:
    """Read both parts with the class `reader` of torchvision, whose files lie in `folder`."""
    import torchvision

    _refuse_image_size(source)
    read = getattr(torchvision.datasets, reader)
    try:
        train, test = (
            read(source.root, train, download=source.download) for train in (True, False)
        )
    # A broken file shows itself as almost any exception: assertion, struct, pickle, zlib, ...
    except Exception as error:
        packed = sorted(path.name for path in (source.root / folder).glob("*.gz"))
        if packed:
            raise DataError(
                f"{source.name}: files in {source.root / folder} are packed ({packed[0]}, ...); "
                f"unpack them there: gunzip --keep {source.root / folder}/*.gz"
            ) from error
        advice = (
            "check the network, or set data.root to the folder that holds it"
            if source.download
            else "set data.download=true, or data.root to the folder that holds it"
        )
        raise DataError(
            f"{source.name} is missing or broken in {source.root / folder} "
            f"({reason(error)}); {advice}"
        ) from error
    return Dataset(_to_images(train), _to_images(test), tuple(train.classes))


def _to_images(part: Any) -> Images:
    """Turn a part in torchvision's form, grey images without a channel axis, into arrays."""
    images = np.asarray(part.data, dtype=np.uint8)
    if images.ndim == 3:
        images = images[..., None]
    return Images(np.ascontiguousarray(images), np.asarray(part.targets, dtype=np.int64))
