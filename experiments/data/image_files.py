"""Which image files a folder has, and of which class and part each is."""

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from fedmetanas.errors import DataError

from .image_pixels import Content

PARTS = ("train", "test")
#: Of files that are meant to be images. Others are tried, too, but are no mistake if they are none.
SUFFIXES = frozenset(
    "." + ending
    for endings in ("png jpg jpeg jpe jfif bmp gif tif tiff", "webp avif ppm pgm pbm")
    for ending in endings.split()
)


@dataclass(frozen=True)
class ImageFile:
    """A file that may be an image, not read yet.

    Attributes
    ----------
    name : str
        Its path under the root; what people are told.
    label : str
        Name of its class.
    part : str
        ``train`` or ``test``; empty if this is not said.
    content : callable
        Returns its path, or its bytes in an open file.
    meant : bool
        Whether it is meant to be an image.
    """

    name: str
    label: str
    part: str
    content: Content
    meant: bool = True


@dataclass(frozen=True)
class Found:
    """What lies under a root.

    Attributes
    ----------
    files : list of ImageFile
        In an order that is a function of their names alone.
    classes : tuple of str
        Names of all classes, also of those without files.
    folders : dict of str to list of str
        For each part the names of its classes; empty if they need no folders.
    has_test : bool
        Whether it is said which images are for testing.
    skipped : dict of str to int
        How many files or folders were passed over, by the reason.
    """

    files: list[ImageFile]
    classes: tuple[str, ...]
    folders: Mapping[str, list[str]]
    has_test: bool
    skipped: Mapping[str, int]


def parts_of(root: Path) -> tuple[str, ...]:
    """Return train and test if one of these folders has folders in it, else the root itself."""
    divided = any(_subfolders(root / part, Counter()) for part in PARTS)
    return PARTS if divided else ("",)


def list_class_folders(root: Path) -> Found:
    """List the files of ``root/{train,test}/<class>/``, or of ``root/<class>/``.

    The folder test may lack. A class folder may have folders in it, and may be a link to one; links
    to folders further down could lead in circles and are refused. What is hidden is passed over.

    Raises
    ------
    DataError
        If there are no class folders, or there is a link to a folder in one.
    """
    skipped: Counter[str] = Counter()
    folders = {
        part: _subfolders(root / part, skipped)
        for part in parts_of(root)
        if part != "test" or (root / part).is_dir()
    }
    if "train" in folders:
        beside = set(_subfolders(root, skipped)) - set(PARTS)
        skipped["beside train and test"] += len(beside)
    for part, names in folders.items():
        if not names:
            raise DataError(
                f"imagefolder: no class folders in {root / part}; expected {root}/<class>/ with "
                f"images, or {root}/train/<class>/ and {root}/test/<class>/; or set data.root to "
                "another folder"
            )
    files = [
        ImageFile(
            path.relative_to(root).as_posix(),
            name,
            part,
            partial(Path, path),
            path.suffix.lower() in SUFFIXES,
        )
        for part, names in folders.items()
        for name in names
        for path in _files_in(root / part / name, skipped)
    ]
    classes = sorted(set().union(*folders.values()))
    return Found(files, tuple(classes), folders, "test" in folders, +skipped)


def _subfolders(folder: Path, skipped: Counter[str]) -> list[str]:
    """Return the names of the folders in a folder, sorted, and count what else is in it."""
    names = []
    if folder.is_dir():
        for path in folder.iterdir():
            if path.name.startswith("."):
                skipped["hidden"] += 1
            elif path.is_dir():
                names.append(path.name)
            else:
                skipped["beside the class folders"] += 1
    return sorted(names)


def _files_in(folder: Path, skipped: Counter[str]) -> list[Path]:
    """Return the files under a folder, in a fixed order, and count those that are hidden."""
    return [
        Path(parent, name)
        for parent, names in sorted(_walk(folder, skipped))
        for name in sorted(names)
    ]


def _walk(folder: Path, skipped: Counter[str]) -> Iterator[tuple[str, list[str]]]:
    """Yield folders and the names of their files; nothing that is hidden."""
    for parent, folders, files in os.walk(folder):
        skipped["hidden"] += sum(name.startswith(".") for name in (*folders, *files))
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in folders:
            if os.path.islink(path := os.path.join(parent, name)):
                raise DataError(
                    f"imagefolder: {path} is a link to a folder, which is only allowed for the "
                    "folder of a class; put the images there, or remove it"
                )
        yield parent, [name for name in files if not name.startswith(".")]
