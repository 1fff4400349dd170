"""Datasets: right values, and an error that names the file or key when something is wrong."""

import hashlib
import os
import pickle
import re
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torchvision
from helpers import documented_example
from PIL import Image
from sklearn.datasets import load_digits

from fedmetanas.errors import DataError
from fedmetanas.experiments.data import image_folder, registry
from fedmetanas.experiments.data.decoding import decode
from fedmetanas.experiments.data.registry import (
    DATASETS,
    FOLDERS,
    Dataset,
    Images,
    Reading,
    Source,
    register,
)

IDX_TYPES = {1: 2049, 3: 2051}


def source(name: str, root: Path | str = "data", image_size: int | None = None) -> Source:
    return Source(name, Path(root), download=False, image_size=image_size)


def write_idx(path: Path, array: np.ndarray) -> None:
    header = struct.pack(f">{1 + array.ndim}i", IDX_TYPES[array.ndim], *array.shape)
    path.write_bytes(header + array.astype(np.uint8).tobytes())


def write_mnist(folder: Path, rng: np.random.Generator) -> dict[str, np.ndarray]:
    folder.mkdir(parents=True)
    arrays = {}
    for part, count in (("train", 7), ("t10k", 3)):
        arrays[part] = rng.integers(0, 256, (count, 28, 28))
        arrays[part + "-labels"] = rng.integers(0, 10, count)
        write_idx(folder / f"{part}-images-idx3-ubyte", arrays[part])
        write_idx(folder / f"{part}-labels-idx1-ubyte", arrays[part + "-labels"])
    return arrays


def write_folder(
    root: Path, mode: str = "RGB", size: tuple[int, int] = (10, 9)
) -> dict[str, np.ndarray]:
    """Write two classes of three training and one test image; return what each file shows."""
    rng = np.random.default_rng(0)
    shape = (size[1], size[0]) if mode == "L" else (size[1], size[0], 3)
    shown = {}
    for part, count in (("train", 3), ("test", 1)):
        for name in ("cat", "dog"):
            folder = root / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 256, shape, dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
                shown[f"{part}/{name}/{number}"] = pixels
    return shown


@pytest.fixture
def forget() -> Iterator[None]:
    """Forget the datasets that a test registers."""
    before = set(DATASETS)
    yield
    for name in set(DATASETS) - before:
        del DATASETS[name], FOLDERS[name]


def test_digits_are_those_of_scikit_learn_scaled_to_a_byte() -> None:
    bunch = load_digits()
    expected = {
        (np.round(image * 255 / 16).astype(np.uint8).tobytes(), int(label))
        for image, label in zip(bunch.images, bunch.target, strict=True)
    }

    dataset = decode(source("digits"))

    images = np.concatenate([dataset.train.images, dataset.test.images])
    labels = np.concatenate([dataset.train.labels, dataset.test.labels])
    found = {(i.tobytes(), int(y)) for i, y in zip(images, labels, strict=True)}
    assert found == expected
    assert images.shape == (1797, 8, 8, 1)
    assert images.max() == 255
    assert dataset.classes == tuple("0123456789")


def test_digits_split_is_stratified_disjoint_and_fixed() -> None:
    dataset, again = decode(source("digits")), decode(source("digits"))

    assert len(dataset.test.labels) == 360
    shares = np.bincount(dataset.test.labels) / np.bincount(load_digits().target)
    np.testing.assert_allclose(shares, 0.2, atol=0.01)
    np.testing.assert_array_equal(dataset.test.images, again.test.images)
    trained = {image.tobytes() for image in dataset.train.images}
    assert not any(image.tobytes() in trained for image in dataset.test.images)


@pytest.mark.parametrize(
    ("name", "folder"), [("mnist", "MNIST/raw"), ("fashion-mnist", "FashionMNIST/raw")]
)
def test_idx_files_are_read(tmp_path: Path, name: str, folder: str) -> None:
    arrays = write_mnist(tmp_path / folder, np.random.default_rng(1))

    dataset = decode(source(name, tmp_path))

    np.testing.assert_array_equal(dataset.train.images[..., 0], arrays["train"])
    np.testing.assert_array_equal(dataset.train.labels, arrays["train-labels"])
    np.testing.assert_array_equal(dataset.test.images[..., 0], arrays["t10k"])
    np.testing.assert_array_equal(dataset.test.labels, arrays["t10k-labels"])
    assert len(dataset.classes) == 10


@pytest.mark.parametrize(
    ("name", "reader", "key", "classes_key"),
    [
        ("cifar10", "CIFAR10", "labels", "label_names"),
        ("cifar100", "CIFAR100", "fine_labels", "fine_label_names"),
    ],
)
def test_cifar_files_are_read_in_height_width_channel_order(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    reader: str,
    key: str,
    classes_key: str,
) -> None:
    cifar = getattr(torchvision.datasets, reader)
    folder = tmp_path / cifar.base_folder
    folder.mkdir()
    rng = np.random.default_rng(2)
    pixels = rng.integers(0, 256, (4, 3, 32, 32), dtype=np.uint8)
    contents = {
        "training": {"data": pixels[:3].reshape(3, -1), key: [0, 1, 1]},
        "testing": {"data": pixels[3:].reshape(1, -1), key: [0]},
        "names": {classes_key: ["cat", "dog"]},
    }
    md5 = {}
    for file, content in contents.items():
        (folder / file).write_bytes(pickle.dumps(content))
        md5[file] = hashlib.md5((folder / file).read_bytes()).hexdigest()
    monkeypatch.setattr(cifar, "train_list", [["training", md5["training"]]])
    monkeypatch.setattr(cifar, "test_list", [["testing", md5["testing"]]])
    monkeypatch.setattr(
        cifar, "meta", {"filename": "names", "key": classes_key, "md5": md5["names"]}
    )

    dataset = decode(source(name, tmp_path))

    np.testing.assert_array_equal(dataset.train.images, pixels[:3].transpose(0, 2, 3, 1))
    np.testing.assert_array_equal(dataset.test.images, pixels[3:].transpose(0, 2, 3, 1))
    assert dataset.train.labels.tolist() == [0, 1, 1]
    assert dataset.classes == ("cat", "dog")


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("mnist", "MNIST/raw"),
        ("fashion-mnist", "FashionMNIST/raw"),
        ("cifar10", "cifar-10-batches-py"),
        ("cifar100", "cifar-100-python"),
    ],
)
def test_missing_files_name_the_folder_and_the_keys(tmp_path: Path, name: str, folder: str) -> None:
    with pytest.raises(DataError) as caught:
        decode(source(name, tmp_path))

    message = str(caught.value)
    assert str(tmp_path / folder) in message
    assert "data.download=true" in message
    assert "data.root" in message
    assert "\n" not in message


def test_truncated_idx_file_names_the_folder(tmp_path: Path) -> None:
    write_mnist(tmp_path / "MNIST/raw", np.random.default_rng(3))
    path = tmp_path / "MNIST/raw/train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-100])

    with pytest.raises(DataError, match=re.escape(str(tmp_path / "MNIST/raw"))):
        decode(source("mnist", tmp_path))


def test_imagefolder_shows_what_the_files_show(tmp_path: Path) -> None:
    shown = write_folder(tmp_path)

    dataset = decode(source("imagefolder", tmp_path))

    expected = [shown[f"train/{name}/{number}"] for name in ("cat", "dog") for number in range(3)]
    np.testing.assert_array_equal(dataset.train.images, expected)
    np.testing.assert_array_equal(dataset.test.images, [shown["test/cat/0"], shown["test/dog/0"]])
    assert dataset.train.images.shape == (6, 9, 10, 3)
    assert dataset.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert dataset.test.labels.tolist() == [0, 1]
    assert dataset.classes == ("cat", "dog")


def test_imagefolder_is_grey_if_all_images_are(tmp_path: Path) -> None:
    shown = write_folder(tmp_path, mode="L")
    Image.new("1", (10, 9), 1).save(tmp_path / "train/dog/2.png")

    dataset = decode(source("imagefolder", tmp_path))

    assert dataset.train.images.shape == (6, 9, 10, 1)
    np.testing.assert_array_equal(dataset.train.images[0, ..., 0], shown["train/cat/0"])
    assert (dataset.train.images[5] == 255).all()


@pytest.mark.parametrize("path", ["train/cat/0.png", "train/dog/2.png", "test/dog/0.png"])
def test_imagefolder_is_coloured_if_any_image_is(tmp_path: Path, path: str) -> None:
    shown = write_folder(tmp_path, mode="L")
    Image.new("RGB", (10, 9), (10, 20, 30)).save(tmp_path / path)

    dataset = decode(source("imagefolder", tmp_path))

    images = [*dataset.train.images, *dataset.test.images]
    assert sum((image == (10, 20, 30)).all() for image in images) == 1
    grey = shown["train/cat/1"][..., None]
    np.testing.assert_array_equal(dataset.train.images[1], np.repeat(grey, 3, axis=2))


def test_a_grey_image_among_coloured_ones_becomes_one_of_them(tmp_path: Path) -> None:
    write_folder(tmp_path)
    Image.new("L", (10, 9), 77).save(tmp_path / "train/dog/2.png")

    dataset = decode(source("imagefolder", tmp_path))

    assert (dataset.train.images[5] == np.full((9, 10, 3), 77)).all()


def test_imagefolder_resizes_all_images_to_a_square(tmp_path: Path) -> None:
    write_folder(tmp_path)
    Image.new("RGB", (40, 20), (10, 20, 30)).save(tmp_path / "test/dog/0.png")

    dataset = decode(source("imagefolder", tmp_path, image_size=12))

    assert dataset.train.images.shape == (6, 12, 12, 3)
    assert (dataset.test.images[1] == (10, 20, 30)).all()


def test_image_of_another_size_is_named_with_the_remedy(tmp_path: Path) -> None:
    write_folder(tmp_path)
    odd = tmp_path / "test/dog/0.png"
    Image.new("RGB", (11, 9)).save(odd)

    with pytest.raises(DataError, match=re.escape(str(odd)) + ".*11x9.*10x9.*data.image_size=N"):
        decode(source("imagefolder", tmp_path))


@pytest.mark.parametrize("size", [0, 100, -60])
def test_broken_image_is_named(tmp_path: Path, size: int) -> None:
    write_folder(tmp_path)
    path = tmp_path / "train/dog/1.png"
    path.write_bytes(path.read_bytes()[:size])

    with pytest.raises(DataError, match=re.escape(str(path))) as caught:
        decode(source("imagefolder", tmp_path))

    assert "\n" not in str(caught.value)


def test_file_that_only_pretends_to_be_an_image_is_named(tmp_path: Path) -> None:
    write_folder(tmp_path)
    path = tmp_path / "train/cat/0.png"
    path.write_text("no image")

    with pytest.raises(DataError, match=re.escape(str(path))):
        decode(source("imagefolder", tmp_path))


def test_a_pipe_among_the_images_is_named_and_not_waited_for(tmp_path: Path) -> None:
    write_folder(tmp_path)
    os.mkfifo(tmp_path / "train/dog/z.png")

    with pytest.raises(DataError, match=r"train/dog/z\.png .*not a regular file"):
        decode(source("imagefolder", tmp_path))


def test_an_enormous_image_is_named_with_the_limit_in_one_line(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    write_folder(tmp_path, mode="L")
    path = tmp_path / "train/dog/z.png"
    Image.new("1", (12_000, 12_000)).save(path)

    with pytest.raises(DataError, match=re.escape(str(path)) + r".*144000000.*89478485") as caught:
        decode(source("imagefolder", tmp_path))

    assert "\n" not in str(caught.value)
    assert not recwarn


def test_a_line_break_in_a_name_makes_no_second_line(tmp_path: Path) -> None:
    write_folder(tmp_path)
    (tmp_path / "train/dog/two\nlines.png").touch()

    with pytest.raises(DataError, match=r"train/dog/two\\nlines\.png cannot be read") as caught:
        decode(source("imagefolder", tmp_path))

    assert "\n" not in str(caught.value)


def test_folders_in_a_class_and_links_to_classes_and_images_are_read(tmp_path: Path) -> None:
    shown = write_folder(tmp_path)
    (tmp_path / "train/dog/older/still").mkdir(parents=True)
    (tmp_path / "train/dog/0.png").rename(tmp_path / "train/dog/older/still/0.PNG")
    (tmp_path / "train/cat").rename(tmp_path / "cats")
    (tmp_path / "train/cat").symlink_to(tmp_path / "cats")
    (tmp_path / "cats/2.png").rename(tmp_path / "another.png")
    (tmp_path / "cats/2.png").symlink_to("../another.png")

    dataset = decode(source("imagefolder", tmp_path))

    order = ["cat/0", "cat/1", "cat/2", "dog/1", "dog/2", "dog/0"]
    np.testing.assert_array_equal(dataset.train.images, [shown[f"train/{name}"] for name in order])
    assert dataset.train.labels.tolist() == [0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize("target", ["..", "../dog", "."])
def test_a_link_to_a_folder_in_a_class_is_named(tmp_path: Path, target: str) -> None:
    write_folder(tmp_path)
    (tmp_path / "train/cat/again").symlink_to(target)

    with pytest.raises(DataError, match=r"train/cat/again is a link to a folder"):
        decode(source("imagefolder", tmp_path))


def test_image_with_16_bits_is_refused_rather_than_cut_off(tmp_path: Path) -> None:
    write_folder(tmp_path, mode="L")
    path = tmp_path / "train/dog/1.png"
    Image.fromarray(np.full((9, 10), 60000, np.uint16)).save(path)

    with pytest.raises(DataError, match=re.escape(str(path)) + ".*8 bits"):
        decode(source("imagefolder", tmp_path))


@pytest.mark.parametrize(("part", "is_left"), [("train", False), ("test", True)])
def test_missing_part_is_named(tmp_path: Path, part: str, is_left: bool) -> None:
    write_folder(tmp_path)
    (tmp_path / part).rename(tmp_path / "elsewhere")
    if is_left:  # empty: without a folder test, some images of train are kept for testing
        (tmp_path / part).mkdir()

    with pytest.raises(DataError, match=re.escape(str(tmp_path / part)) + ".*data.root"):
        decode(source("imagefolder", tmp_path))


@pytest.mark.parametrize("part", ["train", "test"])
def test_empty_class_folder_is_named(tmp_path: Path, part: str) -> None:
    write_folder(tmp_path)
    for image in (tmp_path / part / "cat").iterdir():
        image.unlink()

    with pytest.raises(DataError, match=re.escape(str(tmp_path / part / "cat"))):
        decode(source("imagefolder", tmp_path))


def test_different_classes_in_train_and_test_are_named(tmp_path: Path) -> None:
    write_folder(tmp_path)
    (tmp_path / "test/dog").rename(tmp_path / "test/wolf")

    with pytest.raises(DataError, match=r"same class folders.*dog, wolf"):
        decode(source("imagefolder", tmp_path))


def test_more_images_than_can_be_held_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_folder(tmp_path, size=(10, 9))  # six training images of 270 bytes
    monkeypatch.setattr(image_folder, "MOST_BYTES", 1620)
    assert decode(source("imagefolder", tmp_path)).train.images.nbytes == 1620

    monkeypatch.setattr(image_folder, "MOST_BYTES", 1619)
    with pytest.raises(DataError, match=r"6 images of 10x9 pixels are 1,620 .*data\.image_size"):
        decode(source("imagefolder", tmp_path))


def test_images_smaller_than_8x8_are_refused(tmp_path: Path) -> None:
    write_folder(tmp_path, size=(8, 7))

    with pytest.raises(DataError, match=r"8x7.*8x8"):
        decode(source("imagefolder", tmp_path))


@pytest.mark.parametrize("name", ["digits", "mnist", "fashion-mnist", "cifar10", "cifar100"])
def test_image_size_is_refused_where_it_has_no_effect(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=rf"data.image_size.*{name}"):
        decode(source(name, tmp_path, image_size=16))


def test_unknown_dataset_is_named_with_those_known() -> None:
    with pytest.raises(DataError, match=r"data.dataset: 'digit'.*digits, mnist"):
        decode(source("digit"))


def test_home_folder_in_root_is_expanded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))

    assert source("mnist", "~/pictures").root == tmp_path / "pictures"


@pytest.mark.usefixtures("forget")
def test_registered_loader_is_used_and_checked() -> None:
    good = Images(np.zeros((2, 8, 9, 3), np.uint8), np.array([0, 1]))
    returned = Dataset(good, good, ("a", "b"))

    @register("mine")
    def mine(source: Source) -> Dataset:
        return returned

    assert decode(source("mine")).train is good
    assert decode(source("mine")).reading == Reading((9, 8), (9, 8), grey=False)
    floats = Images(np.zeros((2, 8, 9, 3)), good.labels)  # type: ignore[arg-type]
    greys = Images(good.images[..., :1], good.labels)
    for bad, words in (
        (Dataset(floats, good, ("a", "b")), "train images must be uint8.*float64"),
        (Dataset(good, Images(good.images, good.labels[:1]), ("a", "b")), "test labels.*2 images"),
        (Dataset(good, good, ("a",)), "0 to 0.*0 to 1"),
        (Dataset(good, greys, ("a", "b")), r"train images have shape \(8, 9, 3\)"),
    ):
        returned = bad
        with pytest.raises(DataError, match=rf"mine: .*{words}"):
            decode(source("mine"))


@pytest.mark.parametrize("name", ["digits", "no/slash", "", ".."])
def test_taken_and_impossible_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"dataset name"):
        register(name)


@pytest.mark.usefixtures("forget")
def test_the_documented_dataset_is_read(tmp_path: Path) -> None:
    parts = {
        f"{part}_{kind}": np.random.default_rng(seed).integers(0, high, shape).astype(dtype)
        for seed, part in enumerate(("train", "test"))
        for kind, high, shape, dtype in (
            ("images", 256, (5, 9, 8, 3), np.uint8),
            ("labels", 3, (5,), np.int64),
        )
    }
    np.savez(tmp_path / "letters.npz", **parts)
    exec(documented_example('@register("letters")'), vars(registry).copy())

    dataset = decode(Source("letters", tmp_path, download=False, image_size=None))

    assert dataset.classes == ("a", "b", "c")
    assert np.array_equal(dataset.train.images, parts["train_images"])
    assert np.array_equal(dataset.test.labels, parts["test_labels"])
