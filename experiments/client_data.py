"""The images of an experiment: one data set spread over all clients, or what each site has.

In a simulation of sites each has a folder of its own under ``data.root``. A real site has one
folder, wherever its node says.
"""

import os
import tomllib
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from fedmetanas.errors import DataError, SettingsError
from fedmetanas.experiments.data.cache import open_dataset
from fedmetanas.experiments.data.image_folder import classes_in
from fedmetanas.experiments.data.partition_cache import open_partition
from fedmetanas.experiments.data.partitions import (
    SMALLEST_CLIENT,
    Plan,
    Split,
    split,
    split_at_site,
)
from fedmetanas.experiments.data.registry import Dataset, Images, Source

from .randomness import rng
from .settings import DataSettings, Settings

TEST_SETS = "FEDMETANAS_DATA"  # names the file of the test sets of this machine
FEWEST_CLASSES = 2
ANY_SIZE = 32  # pixels, where only what there was to read matters
SITES_OPEN = 1_000  # in one process; they are memory maps


@dataclass(frozen=True, eq=False)
class ClientData:
    """The images of a client.

    Attributes
    ----------
    train : Images
        What the indices of support and query mean.
    test : Images
        What the indices of the test part mean.
    split : Split
        What it uses them for.
    """

    train: Images
    test: Images
    split: Split


def source_of(data: DataSettings) -> Source:
    """Return which dataset some settings mean, and how it is read."""
    return Source(
        data.dataset,
        Path(data.root),
        data.download,
        data.image_size,
        data.resize,
        data.channels,
        data.test_share,
        data.skip_broken,
        data.classes,
    )


def is_agreed(settings: Settings) -> bool:
    """Return whether settings say all that a server must know which has no images."""
    data = settings.data
    agreed = data.image_size and data.channels and len(data.classes) >= FEWEST_CLASSES
    return bool(agreed) or is_installed(settings)


def is_installed(settings: Settings) -> bool:
    """Return whether all learn from images that are installed with this project."""
    return settings.data.dataset == "digits" and not settings.sites


def open_data(settings: Settings) -> Dataset:
    """Open the dataset of some settings, decoding it into the cache if need be.

    Raises
    ------
    DataError
        If it is missing or damaged.
    SettingsError
        If it has fewer training images than were asked for.
    """
    data = settings.data
    dataset = open_dataset(source_of(data), data.cache)
    if data.classes:
        dataset = with_classes(dataset, data.classes)
    if data.train_images is None:
        return dataset
    return replace(dataset, train=_some(dataset.train, data.train_images))


def _some(images: Images, count: int) -> Images:
    """Draw so many of some images, the same ones whatever the seed of a run."""
    known = len(images.labels)
    if count > known:
        raise SettingsError(f"data.train_images: there are {known} training images; found {count}")
    chosen = np.sort(rng("train images", seed=0).choice(known, count, replace=False))
    return Images(images.images[chosen], images.labels[chosen])


def open_test(settings: Settings) -> Images | None:
    """Open the test set that ``data.test`` names; None if it names none.

    Where it lies stands in a TOML file of this machine, ``NAME = "/path/to/images"``, which the
    environment variable ``FEDMETANAS_DATA`` names: no path comes with the settings.

    Raises
    ------
    SettingsError
        If there is no such file, or no such name in it.
    DataError
        If the images are missing or damaged, or show other classes.
    """
    name = settings.data.test
    if not name:
        return None
    file = os.environ.get(TEST_SETS, "")
    try:
        named = tomllib.loads(Path(file).read_text(encoding="utf-8")) if file else {}
    except (OSError, ValueError) as error:
        raise SettingsError(f"{TEST_SETS}: cannot read {file}: {error}") from None
    if not isinstance(named.get(name), str):
        where = f"{file} names {', '.join(named) or 'none'}" if file else f"{TEST_SETS} is not set"
        raise SettingsError(
            f"data.test: expected the name of a test set of this machine; found {name!r}, and "
            f"{where}"
        )
    data = settings.data
    source = replace(source_of(data), root=Path(named[name]))
    return with_classes(open_dataset(source, data.cache), data.classes).test


def spread(dataset: Dataset, settings: Settings) -> tuple[Split, ...]:
    """Return for every client what it uses which training images of a dataset for.

    Raises
    ------
    DataError
        If they cannot be spread as the settings ask for.
    """
    data = settings.data
    plan = Plan(
        settings.partitions,
        data.partition,
        data.concentration,
        data.classes_per_client,
        data.min_client_size,
        settings.seed,
    )
    parts = open_partition(dataset.train.labels, plan, data.cache)
    return tuple(
        split(indices, data.support, data.query, settings.seed, partition_id)
        for partition_id, indices in enumerate(parts)
    )


def open_site(settings: Settings, folder: Path) -> Dataset:
    """Open the images of a site.

    Its labels are numbered as in ``data.classes``. Classes that are not among them come after
    those: who asked for the images must refuse them, and can say their names.

    Parameters
    ----------
    settings : Settings
        Those of an experiment; where it does not say to which size, images are resized to some.
    folder : Path
        Where the images lie.

    Raises
    ------
    DataError
        If they are missing or damaged.
    """
    data = settings.data
    classes = data.classes
    if data.dataset == "imagefolder":
        classes += tuple(name for name in classes_in(folder) if name not in classes)
    source = replace(source_of(data), root=folder, classes=classes)
    return _opened_site(replace(source, image_size=data.image_size or ANY_SIZE), data.cache)


@lru_cache(maxsize=SITES_OPEN)
def _opened_site(source: Source, cache: str) -> Dataset:
    return open_dataset(source, cache)


def with_classes(dataset: Dataset, classes: tuple[str, ...]) -> Dataset:
    """Return a dataset with its labels numbered as in a list of classes.

    Raises
    ------
    DataError
        If it has images of a class that is not in the list.
    """
    if dataset.classes == classes:
        return dataset
    used = {int(label) for part in (dataset.train, dataset.test) for label in set(part.labels)}
    unknown = [dataset.classes[label] for label in sorted(used)]
    if unknown := [name for name in unknown if name not in classes]:
        raise DataError(
            f"data.classes: classes {', '.join(unknown)} of the images are not in it; expected "
            f"some of {', '.join(classes)}"
        )
    order = {name: place for place, name in enumerate(classes)}
    places = np.array([order.get(name, -1) for name in dataset.classes], np.int64)
    train, test = (
        Images(part.images, places[part.labels]) for part in (dataset.train, dataset.test)
    )
    return replace(dataset, train=train, test=test, classes=classes)


def as_one_client(settings: Settings) -> Settings:
    """Return the settings of a site's own images, as if it were the only client there is."""
    data = replace(settings.data, partition="iid", min_client_size=SMALLEST_CLIENT)
    return replace(
        settings,
        sites=(),
        held_out_sites=(),
        clients=1,
        held_out_clients=0,
        clients_per_round=None,
        min_replies=None,
        data=data,
    )


def site_data(dataset: Dataset, settings: Settings, client: int) -> ClientData:
    """Return what a site trains and is tested on, its labels numbered as in ``data.classes``.

    Raises
    ------
    DataError
        If it has a class that is not among them, or too few images.
    """
    data = settings.data
    dataset = with_classes(dataset, data.classes)
    train, test = dataset.train, dataset.test
    share = data.support / (data.support + data.query)
    counts = len(train.labels), len(test.labels)
    return ClientData(train, test, split_at_site(*counts, share, settings.seed, client))
