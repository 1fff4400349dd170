"""Datasets: what they are, and their names.

A dataset is one function from a :class:`Source` to a :class:`Dataset` of NumPy arrays, registered
under the name that ``data.dataset`` in an experiment gives. To add one::

    @register("letters")
    def letters(source: Source) -> Dataset:
        with np.load(source.root / "letters.npz", allow_pickle=False) as file:
            train = Images(file["train_images"], file["train_labels"])
            test = Images(file["test_images"], file["test_labels"])
        return Dataset(train, test, classes=("a", "b", "c"))

Reading the settings needs the names alone, and must not cost the import of NumPy: the loaders that
are built in are imported when they are called.
"""

import importlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedmetanas.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


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

    images: "npt.NDArray[np.uint8]"
    labels: "npt.NDArray[np.int64]"


@dataclass(frozen=True)
class Reading:
    """What there was to read, before anything was resized or converted.

    Attributes
    ----------
    smallest : tuple of int
        Width of the narrowest image and height of the lowest, in pixels.
    largest : tuple of int
        Width of the widest image and height of the highest, in pixels.
    grey : bool
        Whether all images are grey.
    skipped : dict of str to int
        How many files were left out, by the reason, in words for people.
    """

    smallest: tuple[int, int]
    largest: tuple[int, int]
    grey: bool
    skipped: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Dataset:
    """The images to search and train on, those to test on, and the names of the classes.

    One that was opened from the cache has a digest of all this, and says what was read.
    """

    train: Images
    test: Images
    classes: tuple[str, ...]
    digest: str = ""
    reading: Reading | None = None


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
    resize : {"crop", "squash"}
        How an image that is not square becomes so.
    channels : {1, 3} or None
        What images are converted to; None takes 1 if all are grey, else 3.
    test_share : float
        Share of each class that is kept for testing where the files do not say so.
    skip_broken : bool
        Whether images that cannot be read are left out.
    classes : tuple of str
        Names of all classes there can be, in the order of their labels; empty takes those of the
        dataset.

    Raises
    ------
    DataError
        If the home folder that ``~`` in `root` stands for is not known.
    """

    name: str
    root: Path
    download: bool
    image_size: int | None
    resize: str = "crop"
    channels: int | None = None
    test_share: float = 0.2
    skip_broken: bool = False
    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        try:
            root = Path(self.root).expanduser()
        except RuntimeError:
            raise DataError(f"data.root: {self.root} names a home folder that is unknown") from None
        object.__setattr__(self, "root", root)


Loader = Callable[[Source], Dataset]
#: Names of folders under a root, or a function from the root to them.
Folders = tuple[str, ...] | Callable[[Path], tuple[str, ...]]

DATASETS: dict[str, Loader] = {}
FOLDERS: dict[str, Folders] = {}
#: The modules of the loaders of this package: all that decides what they read.
BUILT_IN: dict[str, tuple[str, ...]] = {}


def register(name: str, folders: Folders = ("",)) -> Callable[[Loader], Loader]:
    """Make a loader known under `name`.

    Parameters
    ----------
    name : str
        Letters, digits, ``-``, ``_`` and ``.``; not registered yet.
    folders : tuple of str, or callable
        The folders under ``source.root`` whose files the loader reads, by default all of the root;
        or a function from the root to them. When a file in them changes, the dataset is decoded
        again.

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


def _built_in(module: str, function: str, words: str) -> Loader:
    """Return a loader of this package, with what it is, that is imported when it is called."""

    def load(source: Source) -> Dataset:
        loader: Any = getattr(importlib.import_module(f"{__package__}.{module}"), function)
        dataset: Dataset = loader(source)
        return dataset

    load.__doc__ = words
    return load


def _image_parts(root: Path) -> tuple[str, ...]:
    from .image_files import parts_of

    return parts_of(root)


_SMALL = "60,000 + 10,000 grey images of 28x28"
_COLOUR = "50,000 + 10,000 colour images of 32x32"
_IMAGES = ("image_folder", "image_files", "image_pixels", "saved_dataset", "kept_for_testing")
_ARRAYS = ("loaders",)
for _name, _folders, _modules, _function, _words in (
    ("digits", (), _ARRAYS, "digits", "1,797 handwritten digits of 8x8, nothing to download"),
    ("mnist", ("MNIST/raw",), _ARRAYS, "mnist", f"{_SMALL}: handwritten digits"),
    ("fashion-mnist", ("FashionMNIST/raw",), _ARRAYS, "fashion_mnist", f"{_SMALL}: clothes"),
    ("cifar10", ("cifar-10-batches-py",), _ARRAYS, "cifar10", f"{_COLOUR}, 10 classes"),
    ("cifar100", ("cifar-100-python",), _ARRAYS, "cifar100", f"{_COLOUR}, 100 classes"),
    (
        *("imagefolder", _image_parts, _IMAGES, "imagefolder"),
        "your own images, in a folder for each class, in data.root",
    ),
):
    register(_name, _folders)(_built_in(_modules[0], _function, _words))
    BUILT_IN[_name] = tuple(f"{__package__}.{_module}" for _module in _modules)
