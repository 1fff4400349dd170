"""The cache: a dataset is decoded once, and its arrays are then shared by all processes.

A decoded dataset is a folder of plain ``.npy`` files that processes map into memory, so that any
number of workers holds the images once. The folder's name carries a fingerprint of what it was
made from; changed files give another folder. A digest of its files shows a pixel that has changed.

A process at a site may live for one message, so that opening must cost little. The files that a
dataset is made from are listed each time, with what the file system says about each: 10,000 files
take some 50 ms. The arrays are not read: they are hashed again only if the file system says that
their files changed after they were last hashed, which is when ``meta.json`` was last touched.

What is in the cache is as private as the images are: only its owner may read it.
"""

import contextlib
import hashlib
import importlib
import inspect
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from fedmetanas.errors import DataError

from .decoding import check, decode
from .registry import BUILT_IN, DATASETS, FOLDERS, Dataset, Images, Reading, Source

FORMAT_VERSION = 3  # raise it when the files in a cache folder, or a built-in dataset, change
ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")  # files, without ".npy"
DECODE_ATTEMPTS = 3
#: Whose version decides which pixels there are.
LIBRARIES = {"digits": ("scikit-learn",), "imagefolder": ("pillow", "torchvision")}
PRIVATE_FOLDER, PRIVATE_FILE = 0o700, 0o600
#: A file system's clock ticks every 10 ms or faster. Of two changes within a tick it shows one.
TICKS_NS = 100_000_000


def open_dataset(source: Source, cache: str) -> Dataset:
    """Open a dataset from the cache, decoding it first if the cache lacks it.

    Parameters
    ----------
    source : Source
        Which dataset.
    cache : str
        Folder of the cache, made if missing; a leading ``~`` is expanded. Empty means
        ``$XDG_CACHE_HOME/fedmetanas``, or ``~/.cache/fedmetanas`` without that variable.

    Returns
    -------
    Dataset
        Its arrays are read-only memory maps (``np.memmap``) in the shapes of :class:`Images`.

    Raises
    ------
    DataError
        If the dataset is missing or broken, its files keep changing, or the cache folder cannot
        be written.
    """
    folder = cache_folder(cache)
    found = _open_folder(_entry(folder, source))
    return found or _build(source, folder)


def fingerprint(source: Source) -> str:
    """Return 16 hexadecimal digits that change with anything a decoded dataset depends on.

    Raises
    ------
    DataError
        If a folder of the dataset cannot be listed.
    """
    folders = FOLDERS.get(source.name, ())
    folders = folders(source.root) if callable(folders) else folders
    facts = [str(FORMAT_VERSION), _code(source.name)]
    for field in fields(source):
        if field.name not in ("root", "download"):
            facts.append(f"{field.name}={getattr(source, field.name)!r}")
    facts += [version(library) for library in LIBRARIES.get(source.name, ())]
    if folders:
        facts.append(str(source.root.resolve()))
    digest = hashlib.sha256("\0".join(facts).encode())
    try:
        for folder in folders:
            for line in _list_files(os.path.realpath(source.root / folder)):
                digest.update(os.fsencode(line))
    except OSError as error:
        raise DataError(f"cannot list {error.filename}: {error.strerror}; see data.root") from error
    return digest.hexdigest()[:16]


def cache_folder(cache: str) -> Path:
    """Return the folder of the cache; an empty name means the user's own."""
    try:
        if cache:
            return Path(cache).expanduser()
        base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        return Path(base).expanduser() / "fedmetanas"
    except RuntimeError:
        found = f"; found data.cache={cache}" if cache else ""
        words = "the home folder is unknown; set HOME, or data.cache, to a folder of yours"
        raise DataError(words + found) from None


def _entry(folder: Path, source: Source) -> Path:
    return folder / f"{source.name}-{fingerprint(source)}"


def _code(name: str) -> str:
    """Return the text of a loader, so that what was changed in one is not answered from before."""
    try:
        if name in BUILT_IN:
            modules = map(importlib.import_module, BUILT_IN[name])
            return "".join(inspect.getsource(module) for module in modules)
        return inspect.getsource(DATASETS[name])
    except (KeyError, OSError, TypeError):  # unknown, typed into a prompt, or not a function
        return ""


def _list_files(folder: str, above: tuple[str, ...] = ()) -> Iterator[str]:
    """Yield what the file system says about all folders and files in a folder, in a fixed order.

    Size and time alone say nothing about a file that took another's place together with its times.
    Where a link leads is a fact of its own. A link to one of the folders it lies in is not
    followed.
    """
    own = os.path.realpath(folder)
    if not os.path.isdir(own) or own in above:
        return
    with os.scandir(folder) as scan:
        entries = sorted(scan, key=lambda entry: entry.name)
    for entry in entries:
        name = f"{entry.path}\0{os.path.realpath(entry.path) if entry.is_symlink() else ''}"
        if entry.is_dir():
            yield f"{name}\n"
            yield from _list_files(entry.path, (*above, own))
        elif entry.is_file():
            yield f"{name}\0{_state(entry.stat())}\n"


def _state(status: os.stat_result) -> list[int]:
    """Return numbers of which at least one is another when a file is changed or replaced."""
    return [status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def _open_folder(folder: Path) -> Dataset | None:
    """Map a decoded dataset into memory; None if it is missing or damaged."""
    try:
        text = (folder / "meta.json").read_text(encoding="utf-8")
        meta = json.loads(text)
        if text != _sealed(meta["classes"], meta["digest"], meta["reading"]):
            return None
        changed = _last_change(folder)
        hashed = (folder / "meta.json").stat().st_mtime_ns
        if not changed + TICKS_NS < hashed <= time.time_ns():
            if meta["digest"] != _digest(folder, meta["classes"]):
                return None
            if changed == _last_change(folder):
                with contextlib.suppress(OSError):  # the cache may be for reading only
                    os.utime(folder / "meta.json")
        arrays = [
            np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in ARRAYS
        ]
        parts = Images(*arrays[:2]), Images(*arrays[2:])
        reading = _reading(meta["reading"])
        dataset = Dataset(*parts, tuple(meta["classes"]), meta["digest"], reading)
        check(dataset, folder.name)
    except Exception:  # whatever is wrong with the files, the remedy is to build them again
        return None
    return dataset


def _last_change(folder: Path) -> int:
    """Return when a file of an array last changed in any way, in ns; nobody can set this time.

    That of a copy is when it was made, and so later than what ``meta.json`` says by its own.
    """
    return max((folder / f"{name}.npy").stat().st_ctime_ns for name in ARRAYS)


def _reading(facts: dict[str, Any] | None) -> Reading | None:
    """Return what was read, as it was before it was written as JSON, which knows no tuples."""
    if facts is None:
        return None
    as_it_was: dict[str, Any] = {
        key: tuple(fact) if isinstance(fact, list) else fact for key, fact in facts.items()
    }
    return Reading(**as_it_was)


def _build(source: Source, folder: Path) -> Dataset:
    """Decode a dataset into a folder of its own, then put that in place in one step."""
    try:
        folder.mkdir(PRIVATE_FOLDER, parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(prefix=".building-", dir=folder))
    except OSError as error:
        raise unwritable(folder, error) from error
    try:
        dataset, entry = _decode_unchanged(source, folder)
        try:
            _write(dataset, building / "new")
            _replace(building / "new", entry, building / "old")
        except OSError as error:
            raise unwritable(folder, error) from error
    finally:
        shutil.rmtree(building, ignore_errors=True)
    placed = _open_folder(entry)
    if placed is None:
        raise DataError(f"the cache {entry} is being changed by others; set data.cache to another")
    return placed


def _decode_unchanged(source: Source, folder: Path) -> tuple[Dataset, Path]:
    """Decode, again if files changed meanwhile, as they do when the loader downloads them."""
    for _ in range(DECODE_ATTEMPTS):
        entry = _entry(folder, source)
        dataset = decode(source)
        if _entry(folder, source) == entry:
            return dataset, entry
    raise DataError(f"{source.name}: files under {source.root} change while they are read")


def _write(dataset: Dataset, folder: Path) -> None:
    """Write the arrays, the names of the classes and what was read into a new folder."""
    folder.mkdir(PRIVATE_FOLDER)
    for name, part in (("train", dataset.train), ("test", dataset.test)):
        np.save(folder / f"{name}_images.npy", part.images, allow_pickle=False)
        np.save(folder / f"{name}_labels.npy", part.labels, allow_pickle=False)
    reading = asdict(dataset.reading) if dataset.reading else None
    text = _sealed(dataset.classes, _digest(folder, dataset.classes), reading)
    (folder / "meta.json").write_text(text, encoding="utf-8")
    for file in folder.iterdir():
        file.chmod(PRIVATE_FILE)


def _sealed(classes: Sequence[str], digest: str, reading: dict[str, Any] | None) -> str:
    """Return what is said of the arrays, as JSON, with a digest of it: no byte of it may change."""
    facts = {"classes": classes, "digest": digest, "reading": reading}
    return json.dumps(facts | {"seal": hashlib.sha256(json.dumps(facts).encode()).hexdigest()})


def _digest(folder: Path, classes: Sequence[str]) -> str:
    """Return a digest of the names of the classes and of the files of all arrays."""
    result = hashlib.sha256(json.dumps(classes).encode())
    for name in ARRAYS:
        with (folder / f"{name}.npy").open("rb") as file:  # not the map: it would fill the memory
            result.update(hashlib.file_digest(file, "sha256").digest())
    return result.hexdigest()


def _replace(new: Path, entry: Path, old: Path) -> None:
    """Put `new` in the place of `entry`, unless another process was first and did it well."""
    if entry.exists() and _open_folder(entry) is None:
        with contextlib.suppress(FileNotFoundError):  # another process repairs it, too
            os.rename(entry, old)  # it is removed together with the folder `old` lies in
    try:
        os.rename(new, entry)
    except OSError:
        if _open_folder(entry) is None:
            raise


def unwritable(folder: Path, error: OSError) -> DataError:
    """Return the error that says why a cache folder cannot be written, and what to do."""
    return DataError(
        f"cannot write the cache {folder}: {error.strerror}; set data.cache to a folder that can "
        "be written and has room"
    )
