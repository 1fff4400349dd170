"""What the server makes of the sites' facts: who disagrees with the experiment, and why."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedmetanas.experiments.code_digest import DIGEST
from fedmetanas.experiments.console import one_line
from fedmetanas.experiments.data.image_faults import some
from fedmetanas.experiments.settings import DataSettings, Settings, write_yaml

from .facts import versions

FEWEST = {"train-images": 2, "test-images": 1}  # one to adapt to and one to learn from
LARGEST_PROPOSED = 32  # twice the side costs four times as much
MOST = 10_000  # entries of a list that a site may say
LONGEST = 1_000  # characters of a text
WHOLE = (
    *("train-images", "test-images", "smallest-width", "smallest-height"),
    *("largest-width", "largest-height"),
)


@dataclass(frozen=True)
class Facts:
    """What a site has said of its images; see :func:`fedmetanas.experiments.sites.facts.facts_of`.

    Attributes
    ----------
    site : str
        Its name; empty where a node plays a part of a copy, or any client.
    train, test : int
        Images of each kind.
    classes : tuple of str
        Those that have images.
    counts : tuple of int
        Training images of each of them; empty where they are not disclosed.
    smallest : tuple of int
        Width of its narrowest and height of its lowest image, in pixels.
    grey : bool
        Whether all of them are grey.
    data, code : str
        Digests of its images and of its code.
    versions : tuple of str
        A name and a version each.
    """

    site: str
    train: int
    test: int
    classes: tuple[str, ...]
    counts: tuple[int, ...]
    smallest: tuple[int, int]
    grey: bool
    data: str
    code: str
    versions: tuple[str, ...]


def read_facts(said: Mapping[str, Any]) -> Facts:
    """Read what a site says, of which nothing is believed.

    Raises
    ------
    ValueError
        If a value is missing or not what it must be.
    """
    wholes = [said.get(key) for key in WHOLE]
    texts = [said.get(key) for key in ("site", "data", "code")]
    lists: list[Any] = [said.get("classes"), said.get("versions"), said.get("class-counts", [])]
    classes, packages, counts = lists
    sound = (
        all(isinstance(one, list) and len(one) <= MOST for one in lists)
        and all(type(number) is int and 0 <= number < 2**53 for number in [*wholes, *counts])
        and all(isinstance(text, str) for text in [*texts, *classes, *packages])
        and all(len(text) <= LONGEST for text in [*texts, *classes, *packages])
        and len(counts) in (0, len(classes))
        and type(said.get("grey")) is bool
    )
    if not sound:
        raise ValueError("facts that are missing or not of their kind")
    return Facts(
        site=said["site"],
        train=said["train-images"],
        test=said["test-images"],
        classes=tuple(classes),
        counts=tuple(counts),
        smallest=(said["smallest-width"], said["smallest-height"]),
        grey=said["grey"],
        data=said["data"],
        code=said["code"],
        versions=tuple(packages),
    )


def objections(facts: Facts, settings: Settings, own_images: bool = True) -> list[str]:
    """Return why a node cannot take part, each reason in a line; none if it can.

    Parameters
    ----------
    facts : Facts
        What it says.
    settings : Settings
        Of the experiment.
    own_images : bool
        Whether it learns from images of its own, and not from what is installed everywhere.
    """
    found: list[str] = []
    if facts.code != DIGEST:
        return ["it runs another version of fedmetanas than the server; install the same"]
    if settings.engine.versions == "same" and (differing := _differing(facts.versions)):
        found.append(f"{one_line(some(differing))} (engine.versions)")
    return found + (_objections_to_images(facts, settings.data) if own_images else [])


def _objections_to_images(facts: Facts, data: DataSettings) -> list[str]:
    found = []
    if unknown := [name for name in facts.classes if name not in data.classes]:
        found.append(f"its classes {one_line(some(unknown))} are not in data.classes")
    has = {"train-images": facts.train, "test-images": facts.test}
    for key, fewest in FEWEST.items():
        if has[key] < fewest:
            words = key.removesuffix("-images")
            found.append(f"it has {has[key]} images to {words}; at least {fewest} are needed")
    if data.channels == 3 and facts.grey:
        found.append("its images are grey, and data.channels=3 asks for colour")
    if data.image_size is not None and min(facts.smallest) < data.image_size:
        width, height = facts.smallest
        found.append(
            f"its images begin at {width}x{height} pixels, and data.image_size={data.image_size} "
            "asks for as many at least"
        )
    return found


def _differing(theirs: Iterable[str]) -> list[str]:
    """Return the versions that differ, a site's and the server's, in words."""
    ours = {text.partition(" ")[0]: text for text in versions()}
    pairs = [(text, ours.get(text.partition(" ")[0], "none")) for text in theirs]
    named = {text.partition(" ")[0] for text in theirs}
    pairs += [(f"no {name}", text) for name, text in ours.items() if name not in named]
    return [f"it has {one}, the server {other}" for one, other in pairs if one != other]


def what_they_have(sites: Sequence[Facts]) -> list[str]:
    """Return a line on the images of each site, and one on what guessing would reach."""
    lines = [
        f"{site.site}: {site.train:,} training and {site.test:,} test images, "
        f"{len(site.classes)} classes, {site.smallest[0]}x{site.smallest[1]} pixels and more, "
        + ("grey" if site.grey else "colour")
        for site in sites
    ]
    if all(site.counts for site in sites):
        counts: Counter[str] = Counter()
        for site in sites:
            counts.update(dict(zip(site.classes, site.counts, strict=True)))
        share = max(counts.values()) / max(1, sum(counts.values()))
        lines.append(f"guessing the most frequent class would be right on {share:.3f} of them")
    return lines


def proposal(sites: Sequence[Facts], image_size: int | None) -> str:
    """Return settings that sites would agree on, as YAML to paste into an experiment.

    Parameters
    ----------
    sites : sequence of Facts
        What they have.
    image_size : int, optional
        What the experiment asks for. Photos are never proposed as large as they are.
    """
    side = min(*(min(site.smallest) for site in sites), image_size or LARGEST_PROPOSED)
    classes = sorted({name for site in sites for name in site.classes})
    tree = {
        "sites": sorted({site.site for site in sites}),
        "data": {
            "dataset": "imagefolder",
            "classes": classes,
            "image_size": side,
            "channels": 1 if any(site.grey for site in sites) else 3,
        },
    }
    return write_yaml(tree)
