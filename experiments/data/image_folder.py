"""Reading image files from folders, one folder for each class."""

import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePath

import numpy as np
import numpy.typing as npt

from fedmetanas.errors import DataError
from fedmetanas.experiments.console import reason

from .all_cores import on_all_cores
from .image_faults import Seen, faults_of, faults_of_sizes, words_on_broken
from .image_files import Found, ImageFile, list_class_folders
from .image_pixels import Header, read_header, read_pixels
from .kept_for_testing import keep_for_testing
from .registry import Dataset, Images, Reading, Source
from .saved_dataset import is_saved, list_saved

MOST_BYTES = 32_000_000_000  # of all decoded training or test images

Pixels = npt.NDArray[np.uint8]


def imagefolder(source: Source) -> Dataset:
    """Read image files laid out as ``root/<class>/`` or ``root/{train,test}/<class>/``.

    A folder that ``datasets.load_from_disk`` reads is read as well. Images are upright, on white
    where they are transparent, and grey only if all of them are. Without ``source.image_size`` all
    must have one size. Where there is no test part, ``source.test_share`` of each class becomes it.
    If ``source.classes`` says which classes there are, fewer may be here; if not, each must have
    images in both parts.

    Raises
    ------
    DataError
        If a folder is missing or empty, a class is unknown, or images are broken, enormous, of more
        than 8 bits a channel or of different sizes; the message names the folder or the files.
    """
    found = _find(source.root)
    with _errors_of_pillow():
        return _read(found, source)


def classes_in(root: Path) -> tuple[str, ...]:
    """Return the names of the classes under a root, in order, also of those without images.

    Raises
    ------
    DataError
        If there are none.
    """
    return _find(root).classes


def _find(root: Path) -> Found:
    return list_saved(root) if is_saved(root) else list_class_folders(root)


@contextmanager
def _errors_of_pillow() -> Iterator[None]:
    """Let an image that is enormous be an error, and say nothing of odd data beside the pixels."""
    from PIL.Image import DecompressionBombWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", DecompressionBombWarning)
        yield


def _read(found: Found, source: Source) -> Dataset:
    """Read all headers, then all pixels, and name at once whatever is wrong."""
    headers = on_all_cores(_header, found.files, "looking at images")
    seen: list[tuple[ImageFile, Header]] = []
    broken: dict[str, str] = {}
    skipped = Counter(found.skipped)
    for file, header in zip(found.files, headers, strict=True):
        if isinstance(header, Header):
            seen.append((file, header))
        elif file.meant:
            broken[file.name] = header
        else:
            skipped[PurePath(file.name).suffix.lower() or "without suffix"] += 1
    while True:
        parts = _divide(seen, found, source)
        channels = source.channels or (1 if all(header.grey for _, header in seen) else 3)
        faults, sizes = faults_of(found, seen, parts, source), faults_of_sizes(seen, source)
        if sizes and not faults and not broken:  # nobody need wait for the pixels to hear of this
            raise DataError(f"imagefolder: {sizes[0]}")
        faults += sizes
        sound = not faults and (source.skip_broken or not broken)
        arrays = [_room(part, channels, source) for part in parts] if sound else [None, None]
        failed = _decode(parts, arrays, channels, source)
        broken |= failed
        if broken and not source.skip_broken:
            faults.insert(0, words_on_broken(broken, source.root))
        if faults:
            raise DataError("imagefolder: " + ". Also: ".join(faults))
        if not failed:
            break
        seen = [(file, header) for file, header in seen if file.name not in failed]
    skipped["broken"] += len(broken)
    classes = source.classes or found.classes
    train, test = (
        Images(array, np.array([classes.index(file.label) for file, _ in part], dtype=np.int64))
        for array, part in zip(arrays, parts, strict=True)
        if array is not None
    )
    return Dataset(train, test, classes, reading=_reading(seen, +skipped))


def _header(file: ImageFile) -> Header | str:
    """Read a header, or return why it cannot be read."""
    try:
        return read_header(file.content)
    except Exception as error:  # see `read_header`
        return reason(error)


def _divide(seen: Seen, found: Found, source: Source) -> tuple[Seen, Seen]:
    """Return the images to train on and those to test on."""
    if found.has_test:
        kept = np.array([file.part == "test" for file, _ in seen])
    else:
        kept = keep_for_testing([file.label for file, _ in seen], source.test_share)
    train = [one for one, is_kept in zip(seen, kept, strict=True) if not is_kept]
    test = [one for one, is_kept in zip(seen, kept, strict=True) if is_kept]
    return train, test


def _room(part: Seen, channels: int, source: Source) -> Pixels:
    """Return an empty array for images, which all have the size of the first or are resized."""
    side = source.image_size
    width, height = part[0][1].size if side is None else (side, side)
    needed = len(part) * width * height * channels
    if needed > MOST_BYTES:
        raise DataError(
            f"imagefolder: {len(part):,} images of {width}x{height} pixels are {needed:,} bytes, "
            f"and at most {MOST_BYTES:,} can be held; set a smaller data.image_size"
        )
    return np.empty((len(part), height, width, channels), np.uint8)


def _decode(
    parts: Sequence[Seen], arrays: Sequence[Pixels | None], channels: int, source: Source
) -> dict[str, str]:
    """Decode images into arrays, or nowhere; return by name why some could not be."""

    def decode(place: tuple[ImageFile, Pixels | None, int]) -> str:
        file, array, row = place
        try:
            pixels = read_pixels(file.content, channels, source.image_size, source.resize)
            if array is not None:
                array[row] = pixels
        except Exception as error:  # see `read_header`
            return reason(error)
        return ""

    places = [
        (file, array, row)
        for part, array in zip(parts, arrays, strict=True)
        for row, (file, _) in enumerate(part)
    ]
    reasons = on_all_cores(decode, places, "reading images")
    return {file.name: why for (file, _, _), why in zip(places, reasons, strict=True) if why}


def _reading(seen: Seen, skipped: Counter[str]) -> Reading:
    widths, heights = zip(*(header.size for _, header in seen), strict=True)
    return Reading(
        smallest=(min(widths), min(heights)),
        largest=(max(widths), max(heights)),
        grey=all(header.grey for _, header in seen),
        skipped=dict(sorted(skipped.items())),
    )
