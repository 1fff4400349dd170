"""What is wrong with the images that were found, in words for the person who can set it right."""

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path

from .image_files import Found, ImageFile
from .image_pixels import Header
from .registry import Source

MOST_NAMES = 20  # of files in a message

#: Files that are images, with what their headers say.
Seen = Sequence[tuple[ImageFile, Header]]


def faults_of(found: Found, seen: Seen, parts: Sequence[Seen], source: Source) -> list[str]:
    """Return what is wrong with the images whose headers can be read.

    Parameters
    ----------
    found : Found
        What lies under the root.
    seen : sequence
        The images.
    parts : sequence
        Those to train on and those to test on.
    source : Source
        How they are to be read.
    """
    if not seen:
        return [f"there is no image in {source.root}; set data.root to another folder"]
    if source.classes:
        faults = _faults_of_unknown_classes(found, source)
    else:
        faults = _faults_of_class_folders(found, seen, source.root)
    faults += [
        f"there is no image to {purpose} in {source.root}; add some"
        for part, purpose in zip(parts, ("train on", "test on"), strict=True)
        if not part
    ]
    deep = [str(source.root / file.name) for file, header in seen if header.deep]
    if deep:
        have = "has" if len(deep) == 1 else f": {len(deep)} files have"
        faults.append(f"{some(deep)} {have} more than 8 bits a channel; convert to 8 bits")
    return faults


def faults_of_sizes(seen: Seen, source: Source) -> list[str]:
    """Return which images have the least and the most pixels, if they are to be of one size."""
    by_size = {header.size: source.root / file.name for file, header in reversed(seen)}
    if source.image_size is not None or len(by_size) < 2:
        return []
    low, *_, high = sorted(by_size, key=lambda size: (size[0] * size[1], size))
    return [
        f"images have {len(by_size)} sizes: {by_size[high]} has {high[0]}x{high[1]} pixels, "
        f"{by_size[low]} has {low[0]}x{low[1]}; set data.image_size=N to resize all of them to NxN"
    ]


def words_on_broken(broken: Mapping[str, str], root: Path) -> str:
    """Return which files cannot be read, from their names and the reasons."""
    remedy = "replace or remove {}, or set data.skip_broken=true to go on without"
    if len(broken) == 1:
        ((name, why),) = broken.items()
        return f"{root / name} cannot be read as an image ({why}); " + remedy.format("it")
    files = some([f"{root / name} ({why})" for name, why in sorted(broken.items())])
    return f"{len(broken)} files cannot be read as images: {files}; " + remedy.format("them")


def some(names: Sequence[str]) -> str:
    """Return names in a row, and how many more there are if they are many."""
    rest = len(names) - MOST_NAMES
    return ", ".join(names[:MOST_NAMES]) + (f" and {rest} more" if rest > 0 else "")


def _faults_of_unknown_classes(found: Found, source: Source) -> list[str]:
    """Return which classes are not in the list, each with the nearest that is."""
    unknown = []
    for name in sorted(set(found.classes) - set(source.classes)):
        near = difflib.get_close_matches(name, source.classes, n=1)
        unknown.append(repr(name) + "".join(f" (did you mean {one!r}?)" for one in near))
    if not unknown:
        return []
    return [
        f"{source.root} has classes that data.classes has not: {some(unknown)}; data.classes has "
        + ", ".join(source.classes)
    ]


def _faults_of_class_folders(found: Found, seen: Seen, root: Path) -> list[str]:
    """Return which class folders lack or are empty."""
    folders = [set(names) for names in found.folders.values()]
    differing = set().union(*folders) - set.intersection(*folders) if folders else set()
    if differing:
        return [
            f"{root}/train and {root}/test must have the same class folders; only one of them has: "
            + ", ".join(sorted(differing))
        ]
    full = {(file.part, file.label) for file, _ in seen}
    empty = [
        str(root / part / name)
        for part, names in found.folders.items()
        for name in names
        if (part, name) not in full
    ]
    if not empty:
        return []
    has = "the class folder {} has" if len(empty) == 1 else "the class folders {} have"
    return [has.format(some(empty)) + " no image; add some or remove it"]
