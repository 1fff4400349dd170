"""Datasets: where images and labels come from.

A dataset is one function from a :class:`Source` to a :class:`Dataset` of NumPy arrays, registered
under the name that ``data.dataset`` in an experiment gives. To add one::

    @register("letters")
    def letters(source: Source) -> Dataset:
        with np.load(source.root / "letters.npz", allow_pickle=False) as file:
            train = Images(file["train_images"], file["train_labels"])
            test = Images(file["test_images"], file["test_labels"])
        return Dataset(train, test, classes=("a", "b", "c"))

Loaders import what they need themselves: reading the settings must not cost the import of
torchvision and scikit-learn.
"""

import os
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fedmetanas.errors import DataError

SMALLEST_SIDE = 8  # pixels
MOST_BYTES = 32_000_000_000  # of all decoded training or test images
DIGITS_SPLIT_SEED = 0  # the test set of digits is the same whatever the seed of a run
DIGITS_TEST_SHARE = 0.2
DIGITS_BRIGHTEST = 16


@dataclass(frozen=True, eq=False)
class Images:
    """Images and what they show.

    Attributes
    ----------
    images : np.ndarray
        uint8, shape (n, H, W, C), values 0 to 255.
    labels : np.ndarray
        int64, shape (n,), values 0 to the number of classes less one.
    """

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Dataset:
    """The images to search and train on, those to test on, and the names of the classes.

    One that was opened from the cache has a digest of all this.
    """

    train: Images
    test: Images
    classes: tuple[str, ...]
    digest: str = ""


@dataclass(frozen=True)
class Source:
    """Which dataset, and how to get it.

    Attributes
    ----------
    name : str
        A key of :data:`DATASETS`.
    root : Path
        Folder of the files; a leading ``~`` is expanded.
    download : bool
        Whether missing files may be fetched from the network.
    image_size : int or None
        Side in pixels that all images are resized to; None leaves them as they are.

    Raises
    ------
    DataError
        If the home folder that ``~`` in `root` stands for is not known.
    """

    name: str
    root: Path
    download: bool
    image_size: int | None

    def __post_init__(self) -> None:
        try:
            root = Path(self.root).expanduser()
        except RuntimeError:
            raise DataError(f"data.root: {self.root} names a home folder that is unknown") from None
        object.__setattr__(self, "root", root)


Loader = Callable[[Source], Dataset]

DATASETS: dict[str, Loader] = {}
FOLDERS: dict[str, tuple[str, ...]] = {}


def register(name: str, folders: tuple[str, ...] = ("",)) -> Callable[[Loader], Loader]:
    """Make a loader known under `name`.

    Parameters
    ----------
    name : str
        Letters, digits, ``-``, ``_`` and ``.``; not registered yet.
    folders : tuple of str
        The folders under ``source.root`` whose files the loader reads, by default all of the root.
        When a file in them changes, the dataset is decoded again.

    Raises
    ------
    ValueError
        If the name is taken or has other characters.
    """
    if name in DATASETS or not re.fullmatch(r"\w[\w.-]*", name):
        raise ValueError(f"dataset name {name!r} is already registered or not a plain name")

    def add(loader: Loader) -> Loader:
        DATASETS[name] = loader
        FOLDERS[name] = folders
        return loader

    return add


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


@register("digits", folders=())
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


@register("mnist", folders=("MNIST/raw",))
def mnist(source: Source) -> Dataset:
    """Read MNIST (28x28 pixels, grey) from ``root/MNIST/raw``."""
    return _from_torchvision(source, "MNIST", "MNIST/raw")


@register("fashion-mnist", folders=("FashionMNIST/raw",))
def fashion_mnist(source: Source) -> Dataset:
    """Read Fashion-MNIST (28x28 pixels, grey) from ``root/FashionMNIST/raw``."""
    return _from_torchvision(source, "FashionMNIST", "FashionMNIST/raw")


@register("cifar10", folders=("cifar-10-batches-py",))
def cifar10(source: Source) -> Dataset:
    """Read CIFAR-10 (32x32 pixels, colour) from ``root/cifar-10-batches-py``."""
    return _from_torchvision(source, "CIFAR10", "cifar-10-batches-py")


@register("cifar100", folders=("cifar-100-python",))
def cifar100(source: Source) -> Dataset:
    """Read CIFAR-100 (32x32 pixels, colour) from ``root/cifar-100-python``."""
    return _from_torchvision(source, "CIFAR100", "cifar-100-python")


@register("imagefolder", folders=("train", "test"))
def imagefolder(source: Source) -> Dataset:
    """Read image files laid out as ``root/{train,test}/<class>/<image>``.

    The first training image decides: if it is grey, all images become grey, otherwise RGB. Without
    ``source.image_size`` its size is what all others must have. A class folder may have folders in
    it, and may be a link to one; links to folders further down could lead in circles and are
    refused.

    Raises
    ------
    DataError
        If a folder is missing or empty, train and test have other classes, there is a link to a
        folder in a class folder, or an image is broken, enormous or of another size; the message
        names the folder or file.
    """
    train_files, train_labels, classes = _list_images(source, "train")
    test_files, test_labels, test_classes = _list_images(source, "test")
    if classes != test_classes:
        differing = ", ".join(sorted(set(classes) ^ set(test_classes)))
        raise DataError(
            f"imagefolder: {source.root}/train and {source.root}/test must have the same class "
            f"folders; only one of them has: {differing}"
        )
    first = _read_image(train_files[0], None)
    mode = "L" if first.mode in ("L", "1") else "RGB"
    side = source.image_size
    size = first.size if side is None else (side, side)
    return Dataset(
        Images(_decode_images(train_files, mode, size, resize=side is not None), train_labels),
        Images(_decode_images(test_files, mode, size, resize=side is not None), test_labels),
        classes,
    )


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
        advice = (
            "check the network, or set data.root to the folder that holds it"
            if source.download
            else "set data.download=true, or data.root to the folder that holds it"
        )
        raise DataError(
            f"{source.name} is missing or broken in {source.root / folder} "
            f"({_one_line(error)}); {advice}"
        ) from error
    return Dataset(_to_images(train), _to_images(test), tuple(train.classes))


def _to_images(part: Any) -> Images:
    """Turn a part in torchvision's form, grey images without a channel axis, into arrays."""
    images = np.asarray(part.data, dtype=np.uint8)
    if images.ndim == 3:
        images = images[..., None]
    return Images(np.ascontiguousarray(images), np.asarray(part.targets, dtype=np.int64))


def _list_images(
    source: Source, part: str
) -> tuple[list[Path], npt.NDArray[np.int64], tuple[str, ...]]:
    """Return the files under ``root/part``, their labels and the names of the classes."""
    folder = source.root / part
    classes = sorted(path.name for path in folder.glob("*/"))
    if not classes:
        raise DataError(
            f"imagefolder: no class folders in {folder}; expected {source.root}/train/<class>/ and "
            f"{source.root}/test/<class>/ with images, or set data.root to another folder"
        )
    files: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        found = _images_in(folder / name)
        if not found:
            raise DataError(
                f"imagefolder: the class folder {folder / name} has no image; add some or remove it"
            )
        files += found
        labels += [label] * len(found)
    return files, np.asarray(labels, dtype=np.int64), tuple(classes)


def _images_in(folder: Path) -> list[Path]:
    """Return the images under a folder, in a fixed order."""
    from torchvision.datasets.folder import IMG_EXTENSIONS

    found = []
    for parent, folders, files in sorted(os.walk(folder)):
        for name in folders:
            if os.path.islink(path := os.path.join(parent, name)):
                raise DataError(
                    f"imagefolder: {path} is a link to a folder, which is only allowed for the "
                    "folder of a class; put the images there, or remove it"
                )
        found += [
            Path(parent, name) for name in sorted(files) if name.lower().endswith(IMG_EXTENSIONS)
        ]
    return found


def _decode_images(
    files: list[Path], mode: str, size: tuple[int, int], resize: bool
) -> npt.NDArray[np.uint8]:
    """Decode files into one array, converted to `mode` and of `size` (width, height)."""
    channels = 1 if mode == "L" else 3
    needed = len(files) * size[0] * size[1] * channels
    if needed > MOST_BYTES:
        raise DataError(
            f"imagefolder: {len(files):,} images of {size[0]}x{size[1]} pixels are {needed:,} "
            f"bytes, and at most {MOST_BYTES:,} can be held; set a smaller data.image_size"
        )
    images = np.empty((len(files), size[1], size[0], channels), np.uint8)
    for index, file in enumerate(files):
        image = _read_image(file, mode)
        if resize:
            image = image.resize(size)
        elif image.size != size:
            raise DataError(
                f"imagefolder: {file} has {image.size[0]}x{image.size[1]} pixels, the first image "
                f"{size[0]}x{size[1]}; set data.image_size=N to resize all of them to NxN"
            )
        images[index] = np.asarray(image).reshape(images.shape[1:])
    return images


def _read_image(file: Path, mode: str | None) -> Any:
    """Decode a file into a PIL image of `mode`, or of its own."""
    from PIL import Image

    try:
        if not file.is_file():
            raise OSError("not a regular file")  # opening it might wait for ever
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file) as opened:
                image = opened.convert(mode)
    # PIL's readers raise almost anything on broken files: OSError, SyntaxError, struct.error, ...
    except Exception as error:
        raise DataError(
            f"imagefolder: {file} cannot be read as an image ({_one_line(error)}); "
            "replace or remove it"
        ) from error
    if opened.mode.startswith(("I", "F")):  # PIL would cut off all above 255
        raise DataError(
            f"imagefolder: {file} has more than 8 bits a channel (mode {opened.mode}); convert it"
        )
    return image


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
