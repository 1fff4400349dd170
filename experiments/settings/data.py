"""The settings of the data: which images, how they are read, and who has which."""

from dataclasses import dataclass

from fedmetanas.experiments.data.registry import DATASETS

from .rules import Rule, above, at_least, between, inside, one_of, setting


@dataclass(frozen=True)
class DataSettings:
    """Which images, and how they are spread over the clients."""

    dataset: str = setting("digits", one_of(DATASETS), about="The images to learn from.")
    root: str = setting(
        "data", about="Folder of the dataset's files. The digits need none: they are installed."
    )
    download: bool = setting(False, about="Whether files that are missing may be downloaded.")
    cache: str = setting(
        "", about="Folder for decoded images. Empty: fedmetanas in $XDG_CACHE_HOME or ~/.cache."
    )
    classes: tuple[str, ...] = setting(
        (),
        Rule(
            lambda names: len(names) != 1 and len(set(names)) == len(names) and all(names),
            "a list of at least two different names of folders, numbers in quotes",
            complete=True,
        ),
        about="Names of the classes, in the order of the network's outputs. Empty: all that the "
        "images have. Sites must agree on them.",
    )
    image_size: int | None = setting(
        None,
        between(8, 4096),
        about="Side in pixels to which imagefolder resizes all images. Null: as they are.",
    )
    resize: str = setting(
        "crop",
        one_of(("crop", "squash")),
        about="How an image that is not square becomes so: its middle is cut out, or it is "
        "squashed.",
    )
    channels: int | None = setting(
        None,
        Rule(lambda channels: channels in (1, 3), "1 (grey) or 3 (colour)"),
        about="Channels of the images that imagefolder reads. Null: 1 if all are grey, else 3.",
    )
    test_share: float = setting(
        0.2,
        inside(0, 1),
        about="Share of each class that imagefolder keeps for testing, where there is no folder "
        "test.",
    )
    skip_broken: bool = setting(
        False, about="Whether imagefolder goes on without images that cannot be read."
    )
    train_images: int | None = setting(
        None,
        at_least(1),
        about="Number of training images that are drawn and used. Null: all of them.",
    )
    partition: str = setting(
        "dirichlet",
        one_of(("iid", "dirichlet", "pathological", "sites")),
        about="How images are spread over clients: evenly, unevenly by class, few classes each, or "
        "as they lie, in a folder for each of the sites.",
    )
    concentration: float = setting(
        0.5,
        above(0),
        about="Of a dirichlet partition: the smaller, the less alike the clients are.",
    )
    classes_per_client: int = setting(
        2, at_least(1), about="Of a pathological partition: number of classes that a client has."
    )
    min_client_size: int = setting(
        10, at_least(3), about="Images that even the smallest client must have."
    )
    test: str = setting(
        "",
        about="With sites: name of a test set of the server's own, in the file that its "
        "environment names, FEDMETANAS_DATA. Empty: the sites test the network.",
    )
    augment: str = setting(
        "none",
        one_of(("none", "shift", "shift-flip")),
        about="Random changes of training images: none, shifts, or shifts and mirroring.",
    )
    support: float = setting(
        0.3, inside(0, 1), about="Share of a client's images for the inner loop (adaptation)."
    )
    query: float = setting(
        0.55,
        inside(0, 1),
        about="Share of a client's images for the outer loop. The rest is the client's test part.",
    )
