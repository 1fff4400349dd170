"""The cache: decoded once, shared as memory maps, rebuilt when damaged or out of date."""

import json
import multiprocessing
import os
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
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
from fedmetanas.experiments.data.partition_cache import open_partition
from fedmetanas.experiments.data.partitions import Plan
from fedmetanas.experiments.data.registry import (
    DATASETS,
    FOLDERS,
    Dataset,
    Images,
    Reading,
    Source,
)
from fedmetanas.experiments.data.registry import register as register_dataset
from fedmetanas.experiments.experiment import open_experiment
from fedmetanas.experiments.settings import load

DIGITS = Source("digits", Path("data"), download=False, image_size=None)
FILES = {
    "train_images.npy",
    "train_labels.npy",
    "test_images.npy",
    "test_labels.npy",
    "meta.json",
}
SETTLED = cache_module.TICKS_NS / 1e9 + 0.02  # seconds


class Counter:
    """A loader of random images, eight by default, that counts how often it is asked."""

    def __init__(self) -> None:
        self.calls = 0
        self.images = 8
        self.reading: Reading | None = None
        self.before_return: Callable[[Source], None] = lambda source: None

    def __call__(self, source: Source) -> Dataset:
        self.calls += 1
        self.before_return(source)
        rng = np.random.default_rng(0)
        images = rng.integers(0, 256, (self.images, 8, 8, 1), dtype=np.uint8)
        part = Images(images, np.arange(self.images) % 8)
        return Dataset(part, part, tuple("abcdefgh"), reading=self.reading)


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
    assert {file.name for file in folder.iterdir()} == FILES
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


def find_whole(source: Source, folder: Path) -> None:
    """Open a dataset when its files are so old that a later change shows in their times."""
    time.sleep(SETTLED)
    open_dataset(source, str(folder))


def read_so_far() -> int:
    """Return how many bytes this process has read from files, those of memory maps left out."""
    numbers = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(numbers["rchar"])


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


DAMAGES = [
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
]


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_folder_is_rebuilt(
    tmp_path: Path, counter: Counter, damage: Callable[[Path], object], known: bool
) -> None:
    source, folder = counted(tmp_path / "missing"), tmp_path / "cache"
    whole = np.array(open_dataset(source, str(folder)).train.images)
    (entry,) = folder.iterdir()
    if known:
        find_whole(source, folder)
    damage(entry)

    opened = open_dataset(source, str(folder))

    np.testing.assert_array_equal(opened.train.images, whole)
    assert counter.calls == 2
    assert [path.name for path in folder.iterdir()] == [entry.name]


def test_a_pixel_that_changed_while_the_times_of_its_file_did_not_is_noticed(
    tmp_path: Path, counter: Counter
) -> None:
    source, folder = counted(tmp_path / "missing"), tmp_path / "cache"
    whole = np.array(open_dataset(source, str(folder)).train.images)
    find_whole(source, folder)
    (file,) = folder.glob("*/train_images.npy")
    before = file.stat()
    flip_bits_of("train_images.npy")(file.parent)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))

    opened = open_dataset(source, str(folder))

    np.testing.assert_array_equal(opened.train.images, whole)
    assert counter.calls == 2


def bytes_read(source: Source, cache: Path) -> int:
    """Open a dataset, and return how many bytes this process read from files meanwhile."""
    before = read_so_far()
    open_dataset(source, str(cache))
    return read_so_far() - before


def test_files_that_were_found_whole_are_not_read_again(tmp_path: Path, counter: Counter) -> None:
    source, folder = counted(tmp_path / "missing"), tmp_path / "cache"
    counter.images = 4_000
    opened = open_dataset(source, str(folder))
    size = opened.train.images.nbytes
    find_whole(source, folder)

    assert bytes_read(source, folder) < size / 2
    shutil.copytree(folder, tmp_path / "copy")  # with its times, but these are other files
    time.sleep(SETTLED)
    assert bytes_read(source, tmp_path / "copy") > size
    assert bytes_read(source, tmp_path / "copy") < size / 2
    assert counter.calls == 1


def test_a_change_in_the_moment_of_hashing_is_not_taken_for_an_earlier_one(
    tmp_path: Path, counter: Counter
) -> None:
    source = counted(tmp_path / "missing")
    counter.images = 4_000
    size = open_dataset(source, str(tmp_path)).train.images.nbytes
    (meta,) = tmp_path.glob("*/meta.json")
    changed = max(file.stat().st_ctime_ns for file in meta.parent.glob("*.npy"))

    # One tick of a slow clock later, and an hour ahead, as a clock may have been that was set back.
    for hashed in (changed + 10_000_000, time.time_ns() + 3_600_000_000_000):
        os.utime(meta, ns=(hashed, hashed))
        assert bytes_read(source, tmp_path) > size


def test_cache_that_cannot_be_written_is_opened(
    tmp_path: Path, counter: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = counted(tmp_path / "missing")
    before = open_dataset(source, str(tmp_path)).digest
    (meta,) = tmp_path.glob("*/meta.json")
    os.utime(meta, ns=(1, 1))

    def refuse(*args: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(os, "utime", refuse)

    assert open_dataset(source, str(tmp_path)).digest == before
    assert counter.calls == 1


@pytest.mark.parametrize(
    "reading",
    [
        Reading((8, 9), (640, 480), grey=False),
        Reading((8, 8), (8, 8), grey=True, skipped={"hidden": 3, "broken": 1}),
    ],
)
def test_what_was_read_comes_back_from_the_cache(
    tmp_path: Path, counter: Counter, reading: Reading
) -> None:
    counter.reading = reading

    for _ in range(2):  # just built, then found
        opened = open_dataset(counted(tmp_path / "missing"), str(tmp_path / "cache"))
        assert opened.reading == reading

    assert counter.calls == 1


@pytest.mark.parametrize("existing", [False, True])
def test_only_their_owner_may_read_the_images(tmp_path: Path, existing: bool) -> None:
    source, folder = write_images(tmp_path / "images"), tmp_path / "above" / "cache"
    if existing:
        folder.mkdir(parents=True)
        folder.chmod(0o755)
    mask = os.umask(0)
    try:
        opened = open_dataset(source, str(folder))
        open_partition(np.repeat(np.arange(2), 20), Plan(2, "iid", 0.5, 2, 3, 0), str(folder))
        time.sleep(SETTLED)
        open_dataset(source, str(folder))
    finally:
        os.umask(mask)

    found = sorted(folder.rglob("*"))
    assert len(found) == 2 + len(FILES)
    for path in found:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600)
    assert stat.S_IMODE(folder.stat().st_mode) == (0o755 if existing else 0o700)
    assert opened.classes == ("cat", "dog")


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


def copy_with_times(image: Path, other: Path) -> None:
    shutil.copy2(other, image)


def move(image: Path, other: Path) -> None:
    os.replace(other, image)


def link_hard(image: Path, other: Path) -> None:
    image.unlink()
    os.link(other, image)


def link_elsewhere(image: Path, other: Path) -> None:
    image.unlink()
    image.symlink_to(other)


@pytest.mark.parametrize("take_its_place", [copy_with_times, move, link_hard, link_elsewhere])
@pytest.mark.parametrize("linked", [False, True])
def test_another_image_of_the_same_size_and_times_is_read_anew(
    tmp_path: Path, take_its_place: Callable[[Path, Path], None], linked: bool
) -> None:
    source, cache = write_images(tmp_path / "images"), str(tmp_path / "cache")
    image, first, other = (
        tmp_path / path for path in ("images/train/dog/0.bmp", "first.bmp", "other.bmp")
    )
    for path, brightness in ((first, 10), (other, 200)):
        Image.new("RGB", (8, 8), (brightness,) * 3).save(path)
        os.utime(path, ns=(1, 1))
    image.with_suffix(".png").unlink()
    if linked:
        image.symlink_to(first)
    else:
        first.rename(image)
    before = open_dataset(source, cache)
    size = image.stat().st_size

    take_its_place(image, other)

    after = open_dataset(source, cache)
    assert (image.stat().st_size, image.stat().st_mtime_ns) == (size, 1)
    assert (before.train.images[1] == 10).all()
    assert (after.train.images[1] == 200).all()


def test_link_to_the_folder_of_a_class_that_leads_elsewhere_is_noticed(tmp_path: Path) -> None:
    source = write_images(tmp_path / "images")
    link = tmp_path / "images/train/dog"
    shutil.copytree(link, tmp_path / "first")
    shutil.rmtree(link)
    (tmp_path / "other").mkdir()
    os.link(tmp_path / "first/0.png", tmp_path / "other/0.png")  # all about it is the same
    link.symlink_to(tmp_path / "first")
    before = fingerprint(source)

    link.unlink()
    link.symlink_to(tmp_path / "other")

    assert fingerprint(source) != before


def test_folders_that_swap_their_names_are_noticed(tmp_path: Path) -> None:
    source = write_images(tmp_path)
    cat, dog = (tmp_path / "train" / name for name in ("cat", "dog"))
    for _ in range(1000):  # until both are written in one tick of the file system's clock
        for folder, pixel in ((cat, b"a"), (dog, b"b")):
            (folder / "0.png").unlink()
            # Python's own open asks for the file's times, which then differ in newer kernels.
            handle = os.open(folder / "0.png", os.O_WRONLY | os.O_CREAT)
            os.write(handle, pixel)
            os.close(handle)
        states = [(folder / "0.png").stat() for folder in (cat, dog)]
        if len({(state.st_mtime_ns, state.st_ctime_ns) for state in states}) == 1:
            break
    else:
        pytest.skip("the file system gives each file a time of its own")
    before = fingerprint(source)

    cat.rename(tmp_path / "cat")
    dog.rename(cat)
    (tmp_path / "cat").rename(dog)

    assert fingerprint(source) != before


def test_empty_folder_of_a_class_counts(tmp_path: Path) -> None:
    source = write_images(tmp_path)
    before = fingerprint(source)

    (tmp_path / "train/emu").mkdir()

    assert fingerprint(source) != before


def test_root_is_one_folder_however_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_images(tmp_path / "images")
    (tmp_path / "link").symlink_to("images")
    monkeypatch.chdir(tmp_path)

    for root in ("images", "link", "images/../images"):
        assert fingerprint(replace(source, root=Path(root))) == fingerprint(source)


@pytest.mark.parametrize(
    "changes",
    [
        {"image_size": 9},
        {"resize": "squash"},
        {"channels": 1},
        {"test_share": 0.3},
        {"skip_broken": True},
    ],
)
def test_fingerprint_follows_how_images_are_read(tmp_path: Path, changes: dict[str, Any]) -> None:
    source = write_images(tmp_path)

    assert fingerprint(replace(source, **changes)) != fingerprint(source)
    assert fingerprint(replace(source, download=True)) == fingerprint(source)


@pytest.mark.parametrize(
    ("name", "library"),
    [("digits", "scikit-learn"), ("imagefolder", "pillow"), ("imagefolder", "torchvision")],
)
def test_the_version_of_what_decodes_is_part_of_the_fingerprint(
    name: str, library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Source(name, tmp_path, download=False, image_size=None)
    before = fingerprint(source)
    known = cache_module.version

    monkeypatch.setattr(
        cache_module, "version", lambda asked: known(asked) + ".1" * (asked == library)
    )

    assert fingerprint(source) != before


def test_digest_is_that_of_the_images_wherever_they_lie(tmp_path: Path) -> None:
    here = write_images(tmp_path / "here")
    shutil.copytree(tmp_path / "here", tmp_path / "there", copy_function=shutil.copyfile)
    there = replace(here, root=tmp_path / "there")

    digests = [
        open_dataset(source, str(tmp_path / cache)).digest
        for source, cache in ((here, "one"), (there, "two"), (there, "one"))
    ]
    Image.new("RGB", (8, 8), (0, 0, 1)).save(tmp_path / "there/test/cat/0.png")

    assert len(set(digests)) == 1
    assert open_dataset(there, str(tmp_path / "two")).digest != digests[0]


def test_datasets_of_many_roots_are_open_in_one_process(tmp_path: Path) -> None:
    cache = str(tmp_path / "cache")
    sources = [write_images(tmp_path / name) for name in ("north", "south")]
    Image.new("RGB", (8, 8), (9, 9, 9)).save(tmp_path / "south/train/dog/0.png")

    opened = [open_dataset(source, cache) for source in (*sources, *sources)]

    assert [int(dataset.train.images[1].max()) for dataset in opened] == [0, 9, 0, 9]


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


def test_a_process_that_finds_all_in_the_cache_imports_nothing_that_only_reading_needs(
    tmp_path: Path,
) -> None:
    overrides = ["clients=4", f"data.cache={tmp_path}"]
    open_experiment(load("digits", overrides))
    program = (
        "import sys, fedmetanas.client_app\n"
        "from fedmetanas.experiments.experiment import open_experiment\n"
        "from fedmetanas.experiments.settings import load\n"
        f"open_experiment(load('digits', {overrides}))\n"
        "heavy = {'sklearn', 'torchvision', 'PIL', 'datasets', 'flwr_datasets', 'pandas'}\n"
        "print(sorted(heavy & sys.modules.keys()))"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)

    assert (done.stdout, done.stderr) == ("[]\n", "")
