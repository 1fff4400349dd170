"""Folders that the library ``datasets`` saves, as ``flwr-datasets create`` writes them."""

import io
from collections import Counter
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from fedmetanas.errors import DataError
from fedmetanas.experiments.console import reason

from .image_files import PARTS, Found, ImageFile


def is_saved(root: Path) -> bool:
    """Return whether a folder was written by ``save_to_disk``."""
    return (root / "dataset_dict.json").is_file() or (root / "state.json").is_file()


def list_saved(root: Path) -> Found:
    """List the images of a saved ``Dataset``, or of the splits train and test of a ``DatasetDict``.

    The columns are those whose features are ``Image`` and ``ClassLabel``; the classes stand in the
    order of the latter.

    Raises
    ------
    DataError
        If the folder cannot be loaded, there is no split train, there is not one column of each
        kind, the splits have other classes, or an image has no class.
    """
    from datasets import Dataset, load_from_disk

    try:
        loaded = load_from_disk(str(root.absolute()))
    except Exception as error:  # of a damaged file: of almost any kind
        raise DataError(
            f"imagefolder: {root} cannot be loaded as a saved dataset ({reason(error)}); save it "
            "anew, or set data.root to another folder"
        ) from error
    tables = {"": loaded} if isinstance(loaded, Dataset) else dict(loaded)
    if not isinstance(loaded, Dataset) and "train" not in tables:
        raise DataError(
            f"imagefolder: the saved dataset {root} has no split train; found {', '.join(tables)}"
        )
    used = {part: table for part, table in tables.items() if part in ("", *PARTS)}
    names = {part: _class_names(root, table.features) for part, table in used.items()}
    if len(set(names.values())) > 1:
        raise DataError(f"imagefolder: train and test of {root} must have the same classes")
    files = [file for part, table in used.items() for file in _files(root, part, table)]
    skipped = Counter({"beside train and test": len(tables) - len(used)})
    (classes,) = set(names.values())
    return Found(files, classes, {}, "test" in used, +skipped)


def _files(root: Path, part: str, table: Any) -> list[ImageFile]:
    from datasets import Image

    image, label = _columns(root, table.features)
    names = table.features[label].names
    rows = table.select_columns([image]).cast_column(image, Image(decode=False))
    files = []
    for row, number in enumerate(table[label]):
        name = f"row {row} of {part}" if part else f"row {row}"
        if number is None or not 0 <= number < len(names):
            raise DataError(f"imagefolder: {root / name} has no class; remove this row")
        files.append(ImageFile(name, names[number], part, partial(_bytes, rows, row, image)))
    return files


def _bytes(rows: Any, row: int, column: str) -> BinaryIO:
    content = (rows[row][column] or {}).get("bytes")
    if content is None:  # a path elsewhere would not be followed
        raise OSError("the row holds no bytes of an image")
    return io.BytesIO(content)


def _class_names(root: Path, features: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(features[_columns(root, features)[1]].names)


def _columns(root: Path, features: Mapping[str, Any]) -> tuple[str, str]:
    """Return the names of the column of images and of that of classes."""
    from datasets import ClassLabel, Image

    found = []
    for kind, remedy in (
        (Image, "cast_column(NAME, datasets.Image())"),
        (ClassLabel, "class_encode_column(NAME)"),
    ):
        names = [name for name, feature in features.items() if isinstance(feature, kind)]
        if len(names) != 1:
            raise DataError(
                f"imagefolder: the saved dataset {root} must have one column of the kind "
                f"{kind.__name__}, and has {', '.join(names) or 'none'} among its columns "
                f"{', '.join(features)}; see {remedy} or remove_columns(NAMES) of datasets"
            )
        found += names
    return found[0], found[1]
