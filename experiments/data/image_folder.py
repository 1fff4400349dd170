"""Reading image files from folders, one folder for each class."""

import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fedmetanas.errors import DataError
from fedmetanas.experiments.console import reason

from .registry import Dataset, Images, Source

MOST_BYTES = 32_000_000_000  # of all decoded training or test images


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
            f"imagefolder: {file} cannot be read as an image ({reason(error)}); "
            "replace or remove it"
        ) from error
    if opened.mode.startswith(("I", "F")):  # PIL would cut off all above 255
        raise DataError(
            f"imagefolder: {file} has more than 8 bits a channel (mode {opened.mode}); convert it"
        )
    return image
