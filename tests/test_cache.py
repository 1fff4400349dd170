"""The cache: decoded once, shared as memory maps, rebuilt when damaged or out of date."""

import json
import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterator
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fedmetanas.errors import DataError
from fedmetanas.experiments.data import cache as cache_module
from fedmetanas.experiments.data.cache import fingerprint, open_dataset
from fedmetanas.experiments.data.decoding import decode
from fedmetanas.experiments.data.registry import DATASETS, FOLDERS, Dataset, Images, Source
from fedmetanas.experiments.data.registry import register as register_dataset

DIGITS = Source("digits", Path("data"), download=False, image_size=None)


class Counter:
    """A loader of eight random images that counts how often it is asked."""

    def __init__(self) -> None:
        self.calls = 0
        self.before_return: Callable[[Source], None] = lambda source: None

    def __call__(self, source: Source) -> Dataset:
        self.calls += 1
        self.before_return(source)
        rng = np.random.default_rng(0)
        part = Images(rng.integers(0, 256, (8, 8, 8, 1), dtype=np.uint8), np.arange(8))
        return Dataset(part, part, tuple("abcdefgh"))


@pytest.fixture
def counter() -> Iterator[Counter]:
    loader = Counter()
    register_dataset("counted")(loader)
    yield loader
    del DATASETS["counted"], FOLDERS["counted"]


def counted(root: Path) -> Source:
    return Source("counted", root, download=False, image_size=None)


def write_images(root: Path) -> Source:
    for part in ("train", "test"):
        for name in ("cat", "dog"):
            (root / part / name).mkdir(parents=True)
            Image.new("RGB", (8, 8)).save(root / part / name / "0.png")
    return Source("imagefolder", root, download=False, image_size=None)


def open_together(folder: str, barrier: Barrier, checksums: "multiprocessing.Queue[int]") -> None:
    barrier.wait(timeout=60)
    checksums.put(int(open_dataset(DIGITS, folder).train.images.sum()))


def test_cached_arrays_are_read_only_maps_of_the_decoded_ones(tmp_path: Path) -> None:
    decoded = decode(DIGITS)

    for _ in range(2):  # just built, then found
        opened = open_dataset(DIGITS, str(tmp_path))
        for part, expected in ((opened.train, decoded.train), (opened.test, decoded.test)):
            for array, wanted in ((part.images, expected.images), (part.labels, expected.labels)):
                assert isinstance(array, np.memmap)
                assert not array.flags.writeable
                assert array.dtype == wanted.dtype
                np.testing.assert_array_equal(array, wanted)
        assert opened.classes == decoded.classes


def test_folder_holds_plain_files_under_name_and_fingerprint(tmp_path: Path) -> None:
    open_dataset(DIGITS, str(tmp_path))

    (folder,) = tmp_path.iterdir()
    assert folder.name == f"digits-{fingerprint(DIGITS)}"
    assert {file.name for file in folder.iterdir()} == {
        "train_images.npy",
        "train_labels.npy",
        "test_images.npy",
        "test_labels.npy",
        "meta.json",
    }
    assert json.loads((folder / "meta.json").read_text())["classes"] == list("0123456789")


def test_dataset_is_decoded_once(tmp_path: Path, counter: Counter) -> None:
    for _ in range(3):
        open_dataset(counted(tmp_path / "missing"), str(tmp_path / "cache"))

    assert counter.calls == 1


def test_processes_that_race_leave_one_whole_folder(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    barrier, checksums = context.Barrier(3), context.Queue()
    processes = [
        context.Process(target=open_together, args=(str(tmp_path), barrier, checksums))
        for _ in range(3)
    ]

    for process in processes:
        process.start()
    found = [checksums.get(timeout=100) for _ in processes]
    for process in processes:
        process.join(timeout=60)

    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert set(found) == {int(decode(DIGITS).train.images.sum())}
    assert [path.name for path in tmp_path.iterdir()] == [f"digits-{fingerprint(DIGITS)}"]


def test_loser_of_the_race_takes_the_winners_folder(tmp_path: Path, counter: Counter) -> None:
    source, folder = counted(tmp_path / "missing"), tmp_path / "cache"

    def let_another_win(source: Source) -> None:
        if counter.calls == 1:
            open_dataset(source, str(folder))
            (entry,) = folder.glob("counted-*")
            (entry / "winner").touch()

    counter.before_return = let_another_win
    opened = open_dataset(source, str(folder))

    (entry,) = folder.iterdir()
    assert (entry / "winner").exists()
    assert isinstance(opened.train.images, np.memmap)
    assert Path(opened.train.images.filename or "").parent == entry


def truncate(folder: Path) -> None:
    path = folder / "train_images.npy"
    path.write_bytes(path.read_bytes()[:-1])


def change_type(folder: Path) -> None:
    path = folder / "train_images.npy"
    np.save(path, np.load(path).astype(np.float32))


def change_length(folder: Path) -> None:
    path = folder / "test_labels.npy"
    np.save(path, np.load(path)[:-1])


def pickle_labels(folder: Path) -> None:
    np.save(folder / "test_labels.npy", np.array([None] * 8), allow_pickle=True)


def flip_bits_of(name: str) -> Callable[[Path], None]:
    """Return a damage that changes a pixel, a label or the name of a class."""

    def flip(folder: Path) -> None:
        content = bytearray((folder / name).read_bytes())
        place = content.index(b'"b"') + 1 if name == "meta.json" else len(content) - 8
        content[place] ^= 1
        (folder / name).write_bytes(content)

    return flip


def become_a_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.touch()


@pytest.mark.parametrize(
    "damage",
    [
        truncate,
        change_type,
        change_length,
        pickle_labels,
        become_a_file,
        flip_bits_of("train_images.npy"),
        flip_bits_of("test_images.npy"),
        flip_bits_of("train_labels.npy"),
        flip_bits_of("test_labels.npy"),
        flip_bits_of("meta.json"),
        lambda folder: (folder / "test_images.npy").unlink(),
        lambda folder: (folder / "train_labels.npy").write_bytes(b""),
        lambda folder: (folder / "meta.json").write_text('{"classes": ["a'),
        lambda folder: (folder / "meta.json").write_text("{}"),
    ],
)
def test_damaged_folder_is_rebuilt(
    tmp_path: Path, counter: Counter, damage: Callable[[Path], object]
) -> None:
    source, folder = counted(tmp_path / "missing"), tmp_path / "cache"
    whole = np.array(open_dataset(source, str(folder)).train.images)
    (entry,) = folder.iterdir()
    damage(entry)

    opened = open_dataset(source, str(folder))

    np.testing.assert_array_equal(opened.train.images, whole)
    assert counter.calls == 2
    assert [path.name for path in folder.iterdir()] == [entry.name]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), DataError("broken"), OSError(5, "io")])
def test_nothing_is_left_behind_when_decoding_fails(
    tmp_path: Path, counter: Counter, error: BaseException
) -> None:
    def fail(source: Source) -> None:
        raise error

    counter.before_return = fail
    with pytest.raises(type(error)) as caught:
        open_dataset(counted(tmp_path / "missing"), str(tmp_path / "cache"))

    assert caught.value is error
    assert list((tmp_path / "cache").iterdir()) == []


def test_nothing_is_left_behind_when_the_disk_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, *args: object, **options: object) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)

    with pytest.raises(DataError, match=r"No space left on device; set data.cache"):
        open_dataset(DIGITS, str(tmp_path))

    assert list(tmp_path.iterdir()) == []


def test_cache_that_is_no_folder_is_named(tmp_path: Path) -> None:
    blocked = tmp_path / "file" / "cache"
    (tmp_path / "file").touch()

    with pytest.raises(DataError, match=rf"{blocked}.*data.cache") as caught:
        open_dataset(DIGITS, str(blocked))

    assert "\n" not in str(caught.value)


def test_cache_in_which_nobody_may_write_is_named_before_anything_is_decoded(
    tmp_path: Path, counter: Counter
) -> None:
    folder = "/proc"  # the superuser may write everywhere else

    with pytest.raises(DataError, match=rf"cannot write the cache {folder}: .*; set data\.cache"):
        open_dataset(counted(tmp_path / "missing"), folder)

    assert counter.calls == 0


def test_empty_cache_name_means_the_users_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    open_dataset(DIGITS, "")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    open_dataset(DIGITS, "")
    open_dataset(DIGITS, "~/chosen")

    for folder in ("xdg/fedmetanas", "home/.cache/fedmetanas", "home/chosen"):
        assert len(list((tmp_path / folder).iterdir())) == 1


def test_fingerprint_follows_files_name_size_and_time(tmp_path: Path) -> None:
    source = write_images(tmp_path)
    image = tmp_path / "train" / "dog" / "0.png"
    seen = [fingerprint(source)]

    os.utime(image, ns=(1, 1))
    seen.append(fingerprint(source))
    image.write_bytes(image.read_bytes() + b"more")
    os.utime(image, ns=(1, 1))
    seen.append(fingerprint(source))
    image.rename(image.with_name("1.png"))
    seen.append(fingerprint(source))
    seen.append(fingerprint(Source("imagefolder", tmp_path, False, image_size=9)))

    assert len(set(seen)) == len(seen)
    (tmp_path / "notes.txt").touch()  # beside the folders that are read
    assert fingerprint(source) == seen[3]


def test_a_link_that_leads_in_a_circle_is_named(tmp_path: Path) -> None:
    source = write_images(tmp_path)
    link = tmp_path / "train" / "dog" / "again"
    link.symlink_to("..")

    with pytest.raises(DataError, match=f"{link} is a link to a folder"):
        open_dataset(source, str(tmp_path / "cache"))


def test_digits_are_the_same_whatever_the_root(tmp_path: Path) -> None:
    assert fingerprint(DIGITS) == fingerprint(Source("digits", tmp_path, True, None))


def test_changed_image_is_decoded_again(tmp_path: Path) -> None:
    source = write_images(tmp_path / "images")
    folder = str(tmp_path / "cache")
    before = open_dataset(source, folder)
    Image.new("RGB", (8, 8), (9, 9, 9)).save(tmp_path / "images/train/dog/0.png")

    after = open_dataset(source, folder)

    assert before.train.images[1].max() == 0
    assert (after.train.images[1] == 9).all()


def test_files_that_a_loader_downloads_count(tmp_path: Path, counter: Counter) -> None:
    source, folder = counted(tmp_path / "data"), str(tmp_path / "cache")

    def download(source: Source) -> None:
        source.root.mkdir(exist_ok=True)
        if not (source.root / "file").exists():
            (source.root / "file").touch()

    counter.before_return = download
    open_dataset(source, folder)
    calls = counter.calls
    open_dataset(source, folder)

    assert counter.calls == calls
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_files_that_never_rest_are_an_error(tmp_path: Path, counter: Counter) -> None:
    source = counted(tmp_path / "data")
    source.root.mkdir()
    counter.before_return = lambda source: (source.root / str(counter.calls)).touch()

    with pytest.raises(DataError, match=r"change while they are read"):
        open_dataset(source, str(tmp_path / "cache"))

    assert counter.calls == cache_module.DECODE_ATTEMPTS


@pytest.mark.parametrize(("name", "said"), [("digits", "load_digits"), ("imagefolder", "convert")])
def test_the_code_of_a_built_in_loader_is_part_of_the_fingerprint(
    name: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Source(name, tmp_path, download=False, image_size=None)
    before = fingerprint(source)
    text = cache_module.inspect.getsource

    def edited(thing: Any) -> str:
        return text(thing).replace(said, f"{said}_edited")

    monkeypatch.setattr(cache_module.inspect, "getsource", edited)

    assert fingerprint(source) != before
