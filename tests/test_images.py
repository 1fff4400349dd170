"""Image files as people have them: what is read, how, and what is said of the rest."""

import gzip
import io
import os
import re
import shutil
import signal
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import tiny
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from datasets import Image as ImageFeature
from PIL import Image, PngImagePlugin
from torchvision.transforms import CenterCrop, InterpolationMode, Resize

from fedmetanas.errors import DataError, SettingsError
from fedmetanas.experiments.data import all_cores, registry
from fedmetanas.experiments.data.decoding import decode
from fedmetanas.experiments.data.image_folder import classes_in
from fedmetanas.experiments.data.registry import Images, Reading, Source
from fedmetanas.experiments.data.summary import what_was_read
from fedmetanas.experiments.experiment import open_experiment
from fedmetanas.experiments.run import run
from fedmetanas.experiments.settings import load

RANDOM = np.random.default_rng(0)


def source(root: Path, image_size: int | None = None, **options: object) -> Source:
    return Source("imagefolder", root, False, image_size, **options)  # type: ignore[arg-type]


def picture(width: int = 12, height: int = 10, mode: str = "RGB") -> Image.Image:
    bands = len(Image.new(mode, (1, 1)).getbands())
    pixels = RANDOM.integers(0, 256, (height, width, bands), dtype=np.uint8)
    return Image.fromarray(pixels.squeeze())


def save(image: Image.Image, path: Path, **options: object) -> Image.Image:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return image


def folders(root: Path, *classes: str, count: int = 5, mode: str = "RGB") -> Path:
    """Write so many PNGs into each of some folders."""
    for name in classes or ("cat", "dog"):
        for number in range(count):
            save(picture(mode=mode), root / name / f"{number}.png")
    return root


def all_of(root: Path, image_size: int | None = None, **options: object) -> dict[str, np.ndarray]:
    """Return the only image of each class, from a train part of one image each and a test part."""
    dataset = decode(source(root, image_size, **options))
    assert len(dataset.train.labels) == len(dataset.classes)
    return {
        dataset.classes[label]: image
        for image, label in zip(dataset.train.images, dataset.train.labels, strict=True)
    }


def with_test(root: Path, size: tuple[int, int] = (12, 10), mode: str = "RGB") -> Path:
    """Write a test image for each class folder in root/train."""
    for folder in (root / "train").iterdir():
        save(Image.new(mode, size), root / "test" / folder.name / "0.png")
    return root


def refusal(root: Path, image_size: int | None = None, **options: object) -> str:
    with pytest.raises(DataError) as caught:
        decode(source(root, image_size, **options))
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Folders


def digests(images: np.ndarray) -> set[bytes]:
    return {image.tobytes() for image in images}


def test_class_folders_alone_are_divided_by_class(tmp_path: Path) -> None:
    folders(tmp_path, "cat", count=40)
    folders(tmp_path, "dog", count=10)
    every = digests(
        np.stack([np.asarray(Image.open(path)) for path in sorted(tmp_path.rglob("*.png"))])
    )

    dataset = decode(source(tmp_path, test_share=0.3))

    assert dataset.classes == ("cat", "dog")
    assert np.bincount(dataset.test.labels).tolist() == [12, 3]
    assert np.bincount(dataset.train.labels).tolist() == [28, 7]
    train, test = digests(dataset.train.images), digests(dataset.test.images)
    assert train | test == every
    assert not train & test


def test_the_division_is_that_of_the_same_files_elsewhere_and_of_fewer_classes(
    tmp_path: Path,
) -> None:
    first = decode(source(folders(tmp_path / "a" / "b", "cat", "dog", "owl", count=9)))
    elsewhere = tmp_path / "elsewhere"
    for path in sorted((tmp_path / "a" / "b").rglob("*.png"), reverse=True):  # written backwards
        copy = elsewhere / path.relative_to(tmp_path / "a" / "b")
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)

    again = decode(source(elsewhere))
    shutil.rmtree(elsewhere / "dog")
    fewer = decode(source(elsewhere))

    np.testing.assert_array_equal(again.train.images, first.train.images)
    np.testing.assert_array_equal(again.test.images, first.test.images)
    assert digests(fewer.test.images) == digests(first.test.images[first.test.labels != 1])


@pytest.mark.parametrize(("count", "share", "kept"), [(2, 0.01, 1), (2, 0.99, 1), (10, 0.25, 2)])
def test_both_parts_have_images_of_a_class_of_two(
    count: int, share: float, kept: int, tmp_path: Path
) -> None:
    dataset = decode(source(folders(tmp_path, count=count), test_share=share))

    assert np.bincount(dataset.test.labels).tolist() == [kept, kept]


def test_a_folder_train_alone_is_divided_and_what_is_beside_it_counted(tmp_path: Path) -> None:
    folders(tmp_path / "train", count=10)
    folders(tmp_path / "val", count=3)

    dataset = decode(source(tmp_path))

    assert (len(dataset.train.labels), len(dataset.test.labels)) == (16, 4)
    assert dataset.reading == Reading((12, 10), (12, 10), False, {"beside train and test": 1})


def test_classes_may_be_called_train_and_test(tmp_path: Path) -> None:
    dataset = decode(source(folders(tmp_path, "plane", "test", "train")))

    assert dataset.classes == ("plane", "test", "train")


@pytest.mark.parametrize("names", [(), ("notes.txt",)])
def test_a_folder_without_classes_is_named(names: tuple[str, ...], tmp_path: Path) -> None:
    for name in names:
        (tmp_path / name).touch()

    assert f"no class folders in {tmp_path}; expected {tmp_path}/<class>/" in refusal(tmp_path)
    assert "data.root" in refusal(tmp_path / "missing")


def test_what_is_hidden_or_no_image_is_passed_over_and_counted(tmp_path: Path) -> None:
    folders(tmp_path)
    for name in (".ipynb_checkpoints/0.png", "cat/.ipynb_checkpoints/0.png", "cat/._0.png"):
        save(picture(), tmp_path / name)
    for name in (".DS_Store", "cat/.DS_Store", "cat/notes.TXT", "dog/list.txt", "dog/README"):
        (tmp_path / name).write_text("nothing to see")
    save(picture(), tmp_path / "stray.png")
    os.mkfifo(tmp_path / "dog" / "pipe")

    dataset = decode(source(tmp_path))

    assert dataset.classes == ("cat", "dog")
    assert len(dataset.train.labels) + len(dataset.test.labels) == 10
    assert dataset.reading is not None
    assert dataset.reading.skipped == {
        "hidden": 5,
        ".txt": 2,
        "without suffix": 2,
        "beside the class folders": 1,
    }


def test_without_a_list_of_classes_each_needs_images(tmp_path: Path) -> None:
    folders(tmp_path, "cat", "dog")
    for name in ("eel", "fox"):
        (tmp_path / name).mkdir()
    (tmp_path / "eel" / "notes.txt").touch()

    said = refusal(tmp_path)

    assert f"the class folders {tmp_path}/eel, {tmp_path}/fox have no image; add" in said


def test_an_experiment_of_one_class_is_refused(tmp_path: Path) -> None:
    assert "expected at least two classes, found one alone (cat)" in refusal(
        folders(tmp_path, "cat")
    )


def test_labels_go_by_name_into_the_list_of_classes(tmp_path: Path) -> None:
    folders(tmp_path / "train", "cat", "dog", count=3)
    folders(tmp_path / "test", "dog", "eel", count=2)
    (tmp_path / "train" / "empty").mkdir()
    wanted = ("owl", "eel", "dog", "empty", "cat")

    dataset = decode(source(tmp_path, classes=wanted))

    assert dataset.classes == wanted
    assert dataset.train.labels.tolist() == [4, 4, 4, 2, 2, 2]
    assert dataset.test.labels.tolist() == [2, 2, 1, 1]
    assert classes_in(tmp_path) == ("cat", "dog", "eel", "empty")
    alone = decode(source(folders(tmp_path / "one", "cat"), classes=("cat", "dog")))
    assert set(alone.train.labels) == {0}


def test_unknown_classes_are_named_with_the_nearest_that_is_known(tmp_path: Path) -> None:
    folders(tmp_path, "five", "nine")

    said = refusal(tmp_path, classes=("none", "few", "many"))

    assert "'five'" in said
    assert "'nine' (did you mean 'none'?)" in said
    assert "data.classes has none, few, many" in said


# Saved datasets


def saved(count: int, names: list[str], start: int = 0) -> Dataset:
    """Make a table whose image column is not called image, nor the label label."""
    features = Features(
        {"id": Value("int64"), "pixels": ImageFeature(), "kind": ClassLabel(names=names)}
    )
    images = [picture() for _ in range(count)]
    kinds = [(start + number) % len(names) for number in range(count)]
    rows = {"id": list(range(count)), "pixels": images, "kind": kinds}
    return Dataset.from_dict(rows, features=features)


def test_saved_splits_are_read(tmp_path: Path) -> None:
    names = ["wolf", "cat", "eel"]  # not in the order of the alphabet
    parts = {"train": saved(7, names), "test": saved(4, names, 1), "validation": saved(2, names)}
    DatasetDict(parts).save_to_disk(tmp_path / "saved")

    dataset = decode(source(tmp_path / "saved"))

    assert dataset.classes == ("wolf", "cat", "eel")
    for part, found in (("train", dataset.train), ("test", dataset.test)):
        assert found.labels.tolist() == parts[part]["kind"][:]
        expected = [np.asarray(image) for image in parts[part]["pixels"]]
        np.testing.assert_array_equal(found.images, expected)
    assert dataset.reading == Reading((12, 10), (12, 10), False, {"beside train and test": 1})


def test_one_saved_table_is_divided_and_may_lack_classes(tmp_path: Path) -> None:
    saved(10, ["cat", "dog"]).save_to_disk(tmp_path / "saved")

    dataset = decode(source(tmp_path / "saved", classes=("owl", "dog", "cat")))

    assert np.bincount(dataset.train.labels).tolist() == [0, 4, 4]
    assert np.bincount(dataset.test.labels).tolist() == [0, 1, 1]


def test_faults_of_a_saved_dataset_are_named(tmp_path: Path) -> None:
    whole = saved(4, ["cat", "dog"])
    for number, (table, words) in enumerate(
        (
            (whole.remove_columns("pixels"), "one column of the kind Image, and has none"),
            (whole.cast_column("kind", Value("int64")), "kind ClassLabel, and has none"),
            (whole.add_column("more", whole["kind"][:], feature=whole.features["kind"]), "more"),
            (DatasetDict({"other": whole}), "has no split train; found other"),
            (
                DatasetDict({"train": whole, "test": saved(2, ["cat", "owl"])}),
                "must have the same classes",
            ),
        )
    ):
        table.save_to_disk(tmp_path / str(number))
        assert words in refusal(tmp_path / str(number))
    whole.save_to_disk(tmp_path / "damaged")
    (data,) = (tmp_path / "damaged").glob("*.arrow")
    data.write_bytes(data.read_bytes()[:100])
    assert f"{tmp_path}/damaged cannot be loaded as a saved dataset" in refusal(
        tmp_path / "damaged"
    )


def test_a_saved_path_to_a_file_is_not_followed(tmp_path: Path) -> None:
    save(picture(), tmp_path / "elsewhere.png")
    row = {"bytes": None, "path": str(tmp_path / "elsewhere.png")}
    table = saved(4, ["cat", "dog"]).to_dict()
    table["pixels"][1] = row
    features = saved(1, ["cat", "dog"]).features
    plain = Features({**features, "pixels": {"bytes": Value("binary"), "path": Value("string")}})
    Dataset.from_dict(table, features=plain).save_to_disk(tmp_path / "saved")
    state = tmp_path / "saved" / "dataset_info.json"
    state.write_text(
        re.sub(
            r'"pixels": \{.*?\n    \},\n    "kind"',
            '"pixels": {"_type": "Image"},\n    "kind"',
            state.read_text(),
            flags=re.DOTALL,
        )
    )

    assert "row 1 cannot be read as an image (the row holds no bytes" in refusal(tmp_path / "saved")


# Pixels

LOSSLESS: dict[str, dict[str, object]] = {"webp": {"lossless": True}}
#: What a viewer does with a stored image of each EXIF orientation, as NumPy says it.
UPRIGHT: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.swapaxes(0, 1),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: stored[::-1, ::-1].swapaxes(0, 1),
    8: lambda stored: np.rot90(stored, 1),
}


@pytest.mark.parametrize("ending", ["jpg", "png", "tiff", "webp", "avif"])
def test_images_are_turned_upright(ending: str, tmp_path: Path) -> None:
    shown = {}
    for orientation in UPRIGHT:
        size = (14, 10) if orientation < 5 else (10, 14)  # all are 14x10 when they are upright
        exif = Image.Exif()
        exif[0x0112] = orientation
        path = tmp_path / "train" / str(orientation) / f"0.{ending}"
        stored = np.asarray(save(picture(*size), path, exif=exif, **LOSSLESS.get(ending, {})))
        if ending in ("jpg", "avif"):  # Pillow does not turn these of itself
            with Image.open(path) as image:
                stored = np.asarray(image.convert("RGB"))
        shown[str(orientation)] = UPRIGHT[orientation](stored)

    read = all_of(with_test(tmp_path, (14, 10)))

    assert read.keys() == shown.keys()
    for name, image in read.items():
        np.testing.assert_array_equal(image, shown[name], err_msg=name)


def test_orientation_behind_the_pixels_counts(tmp_path: Path) -> None:
    folders(tmp_path / "train", "cat", count=1)
    exif, stored = Image.Exif(), picture(12, 12)
    exif[0x0112] = 6
    file = io.BytesIO()
    stored.save(file, "PNG", exif=exif)
    content = file.getvalue()
    start = content.index(b"eXIf") - 4
    end = start + 12 + int.from_bytes(content[start : start + 4])
    chunk, rest = content[start:end], content[:start] + content[end:]
    path = tmp_path / "train" / "late" / "0.png"
    path.parent.mkdir()
    path.write_bytes(rest[:-12] + chunk + rest[-12:])  # before IEND

    read = all_of(with_test(tmp_path), 12)

    np.testing.assert_array_equal(read["late"], UPRIGHT[6](np.asarray(stored)))


def test_a_rotated_first_image_decides_with_its_upright_size(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in ("cat", "dog"):
        save(picture(10, 14), tmp_path / name / "0.jpg", exif=exif)
        save(picture(14, 10), tmp_path / name / "1.jpg")

    dataset = decode(source(tmp_path))

    assert dataset.train.images.shape == (2, 10, 14, 3)
    assert dataset.reading == Reading((14, 10), (14, 10), grey=False)


def test_what_is_transparent_is_white(tmp_path: Path) -> None:
    alpha = RANDOM.integers(0, 256, (10, 12), dtype=np.uint8)
    alpha[:5] = 0
    colours, grey = picture(), picture(mode="L")
    layered = colours.copy()
    layered.putalpha(Image.fromarray(alpha))
    save(layered, tmp_path / "train" / "rgba" / "0.png")
    save(layered, tmp_path / "train" / "webp" / "0.webp", lossless=True, exact=True)
    layered_grey = grey.copy()
    layered_grey.putalpha(Image.fromarray(alpha))
    save(layered_grey, tmp_path / "train" / "la" / "0.png")
    palette = Image.new("P", (12, 10), 1)
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.paste(0, (0, 0, 12, 5))
    save(palette, tmp_path / "train" / "palette" / "0.png", transparency=0)
    save(palette, tmp_path / "train" / "gif" / "0.gif", transparency=0)
    key = Image.new("RGB", (12, 10), (1, 2, 3))
    save(key, tmp_path / "train" / "key" / "0.png", transparency=(1, 2, 3))

    read = all_of(with_test(tmp_path))

    share = alpha[..., None] / 255
    on_white = np.asarray(colours) * share + 255 * (1 - share)
    np.testing.assert_allclose(read["rgba"], on_white, atol=1)
    np.testing.assert_array_equal(read["webp"], read["rgba"])
    grey_on_white = np.asarray(grey)[..., None] * share + 255 * (1 - share)
    np.testing.assert_allclose(read["la"], np.repeat(grey_on_white, 3, axis=2), atol=1)
    assert (read["key"] == 255).all()
    for name in ("palette", "gif"):
        assert (read[name][:5] == 255).all()
        assert (read[name][5:] == (0, 0, 255)).all()


def test_images_with_a_transparent_layer_can_be_grey(tmp_path: Path) -> None:
    folders(tmp_path, "cat", "dog", mode="LA")

    dataset = decode(source(tmp_path))

    assert dataset.train.images.shape[3] == 1
    assert dataset.reading == Reading((12, 10), (12, 10), grey=True)


def test_channels_can_be_chosen(tmp_path: Path) -> None:
    coloured, grey = folders(tmp_path / "coloured"), folders(tmp_path / "grey", mode="L")
    before = decode(source(coloured)).train.images
    grey_before = decode(source(grey)).train.images

    made_grey = decode(source(coloured, channels=1))
    made_colour = decode(source(grey, channels=3))

    luma = before @ np.array([0.299, 0.587, 0.114])  # of ITU-R BT.601
    np.testing.assert_allclose(made_grey.train.images[..., 0], luma, atol=1)
    np.testing.assert_array_equal(made_colour.train.images, np.repeat(grey_before, 3, axis=3))
    assert made_grey.reading is not None
    assert not made_grey.reading.grey
    assert made_colour.reading is not None
    assert made_colour.reading.grey


def write_deep_png(path: Path, bands: int) -> None:
    """Write a PNG of 16 bits a channel, which Pillow cannot, chunk by chunk."""
    kinds = {1: 0, 2: 4, 3: 2, 4: 6}  # colour types of PNG
    rows = RANDOM.integers(0, 2**16, (10, 12 * bands)).astype(">u2")
    file = io.BytesIO()
    file.write(b"\x89PNG\r\n\x1a\n")
    header = struct.pack(">IIBBBBB", 12, 10, 16, kinds[bands], 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    for name, content in ((b"IHDR", header), (b"IDAT", pixels), (b"IEND", b"")):
        PngImagePlugin.putchunk(file, name, content)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(file.getvalue())


def test_all_images_of_16_bits_are_refused_at_once(tmp_path: Path) -> None:
    folders(tmp_path)
    for bands in (1, 2, 3, 4):
        write_deep_png(tmp_path / "cat" / f"deep-{bands}.png", bands)
    (tmp_path / "cat" / "deep.ppm").write_bytes(b"P6 12 10 65535\n" + bytes(720))
    Image.fromarray(np.zeros((10, 12), np.uint16)).save(tmp_path / "dog" / "deep.tiff")
    Image.fromarray(np.zeros((10, 12), np.float32)).save(tmp_path / "dog" / "real.tiff")

    said = refusal(tmp_path, skip_broken=True)

    for name in [f"cat/deep-{bands}.png" for bands in (1, 2, 3, 4)] + [
        *("cat/deep.ppm", "dog/deep.tiff", "dog/real.tiff")
    ]:
        assert f"{tmp_path}/{name}" in said
    assert "7 files have more than 8 bits a channel" in said


def test_bitmaps_of_16_bits_a_pixel_are_read(tmp_path: Path) -> None:
    masks = struct.pack("<III", 0xF800, 0x07E0, 0x001F)  # 5 bits of red, 6 of green, 5 of blue
    header = struct.pack("<2sIII", b"BM", 66 + 240, 0, 66)
    header += struct.pack("<IiiHHIIiiII", 40, 12, 10, 1, 16, 3, 240, 0, 0, 0, 0) + masks
    for name, colour in (("cat", 0xF800), ("dog", 0x001F)):
        for number in range(2):
            (tmp_path / name).mkdir(exist_ok=True)
            pixels = struct.pack("<H", colour) * 120
            (tmp_path / name / f"{number}.bmp").write_bytes(header + pixels)

    images = decode(source(tmp_path)).train.images

    assert (images[0] == (255, 0, 0)).all()
    assert (images[1] == (0, 0, 255)).all()


@pytest.mark.parametrize(
    "name",
    [
        *("a.png", "a.jpg", "a.JPG", "a.jpeg", "a.jfif", "a.bmp", "a.gif"),
        *("a.tiff", "a.TIF", "a.webp", "a.avif", "a.ppm", "a.pgm"),
    ],
)
def test_every_format_is_read(name: str, tmp_path: Path) -> None:
    suffix = Path(name).suffix.lower()
    kind = Image.registered_extensions()[{".jfif": ".jpg"}.get(suffix, suffix)]
    colours = {"cat": (200, 100, 50), "dog": (10, 120, 230)}
    for label, colour in colours.items():
        image = Image.new("RGB", (12, 10), colour)
        image = image.convert("L") if suffix == ".pgm" else image
        for number in range(2):
            path = tmp_path / label / f"{number}{name}"
            path.parent.mkdir(exist_ok=True)
            image.save(path, kind)

    dataset = decode(source(tmp_path))

    assert len(dataset.train.labels) == 2
    assert dataset.reading is not None
    assert dataset.reading.skipped == {}
    if suffix != ".pgm":
        for label, expected in enumerate(colours.values()):
            difference = dataset.train.images[label].astype(int) - expected
            assert abs(difference).max() < 6


def test_the_suffix_does_not_decide(tmp_path: Path) -> None:
    folders(tmp_path)
    for name in ("photo", "photo.dat", "photo.png"):  # all are JPEGs
        save(picture(), tmp_path / "cat" / "jpeg.jpg").save(tmp_path / "cat" / name, "JPEG")
    (tmp_path / "cat" / "jpeg.jpg").unlink()
    (tmp_path / "dog" / "drawing.svg").write_text("<svg></svg>")

    dataset = decode(source(tmp_path))

    assert len(dataset.train.labels) + len(dataset.test.labels) == 13
    assert dataset.reading is not None
    assert dataset.reading.skipped == {".svg": 1}


def test_files_that_would_start_a_program_are_no_images(tmp_path: Path) -> None:
    folders(tmp_path)
    Image.new("RGB", (12, 10)).save(tmp_path / "cat" / "page.eps")

    reading = decode(source(tmp_path)).reading

    assert reading is not None
    assert reading.skipped == {".eps": 1}


def test_the_first_picture_of_an_animation_is_read(tmp_path: Path) -> None:
    for name, first in (("cat", "red"), ("dog", "blue")):
        pictures = [Image.new("RGB", (12, 10), colour) for colour in (first, "green")]
        path = tmp_path / name / "0.gif"
        path.parent.mkdir()
        for number in range(2):
            path = path.with_name(f"{number}.gif")
            pictures[0].save(path, save_all=True, append_images=pictures[1:])

    images = decode(source(tmp_path)).train.images

    assert (images[0] == (255, 0, 0)).all()
    assert (images[1] == (0, 0, 255)).all()


@pytest.mark.parametrize("size", [(120, 30), (31, 97), (9, 8), (40, 40), (16, 16)])
def test_images_are_resized_as_torchvision_does(size: tuple[int, int], tmp_path: Path) -> None:
    stored = save(picture(*size), tmp_path / "train" / "cat" / "0.png")
    save(picture(*size), tmp_path / "train" / "dog" / "0.png")
    with_test(tmp_path)

    cropped = all_of(tmp_path, 16)["cat"]
    squashed = all_of(tmp_path, 16, resize="squash")["cat"]

    bilinear = InterpolationMode.BILINEAR
    shorter = Resize(16, bilinear, antialias=True)(stored)
    np.testing.assert_array_equal(cropped, np.asarray(CenterCrop(16)(shorter)))
    both = Resize((16, 16), bilinear, antialias=True)(stored)
    np.testing.assert_array_equal(squashed, np.asarray(both))


def test_a_circle_stays_round(tmp_path: Path) -> None:
    wide = np.zeros((40, 160), np.uint8)
    rows, columns = np.mgrid[:40, :160]
    wide[(rows - 19.5) ** 2 + (columns - 79.5) ** 2 < 15**2] = 255
    for name in ("cat", "dog"):
        save(Image.fromarray(wide), tmp_path / "train" / name / "0.png")
    with_test(tmp_path, mode="L")

    bright = all_of(tmp_path, 20)["cat"][..., 0] > 127

    assert abs(int(bright.any(0).sum()) - int(bright.any(1).sum())) <= 1


def test_a_thread_of_an_image_fills_no_memory(tmp_path: Path) -> None:
    folders(tmp_path)
    Image.new("1", (400_000, 1)).save(tmp_path / "cat" / "thread.png")

    said = refusal(tmp_path, 16)

    assert "cat/thread.png cannot be read as an image (400000x1 is too narrow" in said


# Faults


def test_all_broken_images_are_named_at_once_or_passed_over(tmp_path: Path) -> None:
    folders(tmp_path, count=8)
    whole = decode(source(tmp_path)).train.images
    empty, cut, page = (tmp_path / "cat" / f"{name}.png" for name in ("empty", "cut", "page"))
    empty.touch()
    picture(40, 50).save(cut)
    cut.write_bytes(cut.read_bytes()[:-200])
    page.write_text("<html>404</html>")

    said = refusal(tmp_path)

    assert "3 files cannot be read as images: " in said
    for path in (empty, cut, page):
        assert f"{path} (" in said
    assert "data.skip_broken=true" in said
    dataset = decode(source(tmp_path, 12, skip_broken=True))
    assert dataset.train.images.shape == (len(whole), 12, 12, 3)
    assert dataset.reading == Reading((12, 10), (12, 10), False, {"broken": 3})


def test_a_broken_colour_image_does_not_colour_the_others(tmp_path: Path) -> None:
    folders(tmp_path, mode="L")
    cut = tmp_path / "cat" / "cut.png"
    picture().save(cut)
    cut.write_bytes(cut.read_bytes()[:-30])

    dataset = decode(source(tmp_path, skip_broken=True))

    assert dataset.train.images.shape[3] == 1
    assert len(dataset.train.labels) + len(dataset.test.labels) == 10


def test_twenty_broken_images_are_named_and_the_rest_counted(tmp_path: Path) -> None:
    folders(tmp_path)
    for number in range(25):
        (tmp_path / "dog" / f"broken-{number:02}.png").touch()

    said = refusal(tmp_path)

    assert said.count("/broken-") == 20
    assert "25 files cannot be read" in said
    assert " and 5 more" in said


def test_different_faults_are_said_together(tmp_path: Path) -> None:
    folders(tmp_path, "cat", "dgo")
    write_deep_png(tmp_path / "cat" / "deep.png", 3)
    (tmp_path / "cat" / "empty.png").touch()
    picture(40, 50).save(tmp_path / "cat" / "large.png")

    said = refusal(tmp_path, classes=("cat", "dog"))

    for words in (
        f"{tmp_path}/cat/empty.png cannot be read",
        f"{tmp_path}/cat/deep.png has more than 8 bits",
        "'dgo' (did you mean 'dog'?)",
        f"{tmp_path}/cat/large.png has 40x50 pixels",
        "data.image_size=N",
    ):
        assert words in said


def test_a_class_of_broken_images_alone_is_empty_without_them(tmp_path: Path) -> None:
    folders(tmp_path, "cat", "dog")
    (tmp_path / "eel").mkdir()
    (tmp_path / "eel" / "0.png").touch()

    assert f"the class folder {tmp_path}/eel has no image" in refusal(tmp_path, skip_broken=True)


def test_a_folder_without_any_image_is_named(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()

    assert f"there is no image in {tmp_path};" in refusal(tmp_path, classes=("cat", "dog"))


def test_a_part_without_images_is_named(tmp_path: Path) -> None:
    folders(tmp_path / "train")
    (tmp_path / "test" / "cat").mkdir(parents=True)

    assert f"there is no image to test on in {tmp_path}" in refusal(
        tmp_path, classes=("cat", "dog")
    )


def test_enormous_images_without_a_size_name_theirs_and_the_setting(tmp_path: Path) -> None:
    root = folders(tmp_path / "images", count=5)
    for path in root.rglob("*.png"):
        Image.new("RGB", (1024, 768)).save(path)
    few = ["clients=2", "held_out_clients=0", "data.min_client_size=3", "data.partition=iid"]
    data = ["data.dataset=imagefolder", f"data.root={root}", f"data.cache={tmp_path / 'cache'}"]

    with pytest.raises(SettingsError) as caught:
        open_experiment(load("digits", [*data, *few]))

    assert "data.image_size: images of 1024x768 pixels are too large" in str(caught.value)
    assert "data.image_size=64" in str(caught.value)
    assert "client.batch_size" not in str(caught.value)
    open_experiment(load("digits", [*data, *few, "data.image_size=64"]))


# Other datasets


def test_a_packed_dataset_says_how_to_unpack_it(tmp_path: Path) -> None:
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    (folder / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(b"images"))

    with pytest.raises(DataError) as caught:
        decode(Source("mnist", tmp_path, False, None))

    assert f"gunzip --keep {folder}/*.gz" in str(caught.value)


def test_arrays_must_have_the_classes_and_channels_that_were_asked_for() -> None:
    own = tuple("0123456789")

    assert decode(Source("digits", Path(), False, None, channels=1, classes=own)).classes == own
    for options, words in (
        ({"channels": 3}, "data.channels: images of digits have 1; found 3"),
        ({"classes": own[::-1]}, "data.classes: digits has the classes 0, 1, 2"),
    ):
        with pytest.raises(DataError, match=words):
            decode(Source("digits", Path(), False, None, **options))  # type: ignore[arg-type]


def test_arrays_say_what_was_read() -> None:
    reading = decode(Source("digits", Path(), False, None)).reading

    assert reading == Reading((8, 8), (8, 8), grey=True)


# All cores


def test_results_do_not_depend_on_the_number_of_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders(tmp_path, count=70)
    seen = []
    for cores in (1, 2, 7):
        monkeypatch.setattr(all_cores.os, "cpu_count", lambda cores=cores: cores)
        dataset = decode(source(tmp_path))
        seen.append((dataset.train.images.tobytes(), dataset.train.labels.tobytes()))

    assert seen[0] == seen[1] == seen[2]


def test_a_person_can_interrupt_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(all_cores.os, "cpu_count", lambda: 2)
    begun = []

    def work(number: int) -> None:
        begun.append(number)
        if number == 100:
            os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.001)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a background job
    try:
        with pytest.raises(KeyboardInterrupt):
            all_cores.on_all_cores(work, range(4000), "working")
    finally:
        signal.signal(signal.SIGINT, before)

    assert len(begun) < 2000


def test_an_interruption_beside_the_work_leaves_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def bar(words: str, total: int) -> Iterator[Callable[[int], None]]:
        def advance(count: int) -> None:
            raise KeyboardInterrupt

        yield advance

    monkeypatch.setattr(all_cores, "_bar", bar)
    begun = []

    with pytest.raises(KeyboardInterrupt):
        all_cores.on_all_cores(
            lambda number: (begun.append(number), time.sleep(0.001)), range(4000), "working"
        )

    assert len(begun) < 2000


# What is said


def test_a_run_says_in_its_first_lines_what_was_read(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    root = folders(tmp_path / "images", "cat", count=30)
    folders(root, "dog", count=20)
    save(picture(30, 20), root / "cat" / "wide.png")
    settings = tiny.settings_of(
        *("data.dataset=imagefolder", f"data.root={root}", f"data.cache={tmp_path / 'cache'}"),
        *("data.image_size=8", "data.channels=1", "data.partition=iid", "data.min_client_size=3"),
    )
    sizes = {part.size for part in open_experiment(settings).parts}

    assert run(settings, "inline", str(tmp_path / "out")) == 0

    said = capfd.readouterr().out.splitlines()
    assert said[0].startswith("41 training and 10 test images, 2 classes (cat, dog), 8x8 pixels")
    assert said[1] == (
        f"clients have {min(sizes)} to {max(sizes)} images; guessing the most frequent class would "
        "reach 0.600 on the test images"
    )
    assert any(line.startswith("round 1/") for line in said[2:])


def test_what_was_resized_converted_and_skipped_is_said(tmp_path: Path) -> None:
    save(picture(30, 20), folders(tmp_path, "cat", "dog") / "cat" / "wide.png")
    (tmp_path / "dog" / "notes.txt").touch()
    (tmp_path / "dog" / ".DS_Store").touch()

    said = what_was_read(decode(source(tmp_path, 8, channels=1)), [4, 5])

    assert said[0] == (
        "9 training and 2 test images, 2 classes (cat, dog), 8x8 pixels, grey "
        "(files: 12x10 to 30x20, with colours)"
    )
    assert said[2:] == ["skipped: 1 .txt, 1 hidden"]


def test_many_classes_and_reasons_are_cut_short() -> None:
    images = Images(np.zeros((8, 8, 9, 3), np.uint8), np.arange(8))
    skipped = {f".{letter}": number for number, letter in enumerate("abcdefg", start=1)}
    reading = Reading((9, 8), (9, 8), grey=False, skipped=skipped)
    dataset = registry.Dataset(images, images, tuple("abcdefgh"), reading=reading)

    first, second, third = what_was_read(dataset, [1234, 5])

    assert "8 classes (a, b, c, d, e, f, ...), 9x8 pixels, colour" in first
    assert "files:" not in first
    assert second.startswith("clients have 5 to 1,234 images; guessing")
    assert third == "skipped: 7 .g, 6 .f, 5 .e, 4 .d, 3 .c, 3 others"
