"""Partitions: complete, disjoint, repeatable, and as unlike as asked."""

import random
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedmetanas.errors import DataError
from fedmetanas.experiments.data import partition_cache
from fedmetanas.experiments.data.partition_cache import open_partition
from fedmetanas.experiments.data.partitions import Plan, Split, partition, split

KINDS = ("iid", "dirichlet", "pathological")
LABELS = np.random.default_rng(7).integers(0, 10, 2000)


def plan_of(**changes: Any) -> Plan:
    options: dict[str, Any] = {
        "partitions": 12,
        "kind": "dirichlet",
        "concentration": 0.5,
        "classes_per_client": 2,
        "min_client_size": 10,
        "seed": 3,
    }
    return Plan(**(options | changes))


def parts_of(labels: np.ndarray = LABELS, **changes: Any) -> tuple[np.ndarray, ...]:
    return partition(labels, plan_of(**changes))


def skew(parts: tuple[np.ndarray, ...]) -> float:
    """Mean share of a client's most frequent class."""
    return float(np.mean([np.bincount(LABELS[part]).max() / len(part) for part in parts]))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", [0, 1, 2**40])
def test_every_image_has_one_client(kind: str, seed: int) -> None:
    parts = parts_of(kind=kind, seed=seed)

    assert len(parts) == 12
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(len(LABELS)))
    for part in parts:
        assert part.dtype == np.int64
        assert (np.diff(part) > 0).all()
        assert len(part) >= 10


@pytest.mark.parametrize("kind", KINDS)
def test_same_seed_same_parts_and_other_seed_others(kind: str) -> None:
    first, again, other = (parts_of(kind=kind, seed=seed) for seed in (5, 5, 6))

    for one, two in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, two)
    assert not all(np.array_equal(one, two) for one, two in zip(first, other, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_global_random_state_and_labels_stay_as_they_are(kind: str) -> None:
    labels = LABELS.copy()
    labels.flags.writeable = False  # as a memory map is
    python, torch_state = random.getstate(), torch.get_rng_state()
    numpy = str(np.random.get_state())  # noqa: NPY002

    parts_of(labels, kind=kind)

    assert random.getstate() == python
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert str(np.random.get_state()) == numpy  # noqa: NPY002


def test_iid_clients_are_alike_even_if_the_labels_are_sorted() -> None:
    labels = np.sort(LABELS)

    parts = parts_of(labels, kind="iid")

    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= 1
    for part in parts:
        assert len(np.unique(labels[part])) == 10


@pytest.mark.parametrize("classes_per_client", [1, 2, 5, 10])
def test_pathological_clients_have_the_number_of_classes_asked(classes_per_client: int) -> None:
    parts = parts_of(kind="pathological", classes_per_client=classes_per_client)

    assert {len(np.unique(LABELS[part])) for part in parts} == {classes_per_client}


@pytest.mark.parametrize("seed", range(4))
def test_no_class_is_left_out_when_clients_are_fewer_than_classes(seed: int) -> None:
    parts = parts_of(kind="pathological", partitions=5, classes_per_client=4, seed=seed)

    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(len(LABELS)))


def test_small_concentration_makes_clients_less_alike() -> None:
    large = skew(parts_of(concentration=1000.0))
    small = skew(parts_of(concentration=0.1, min_client_size=1))

    assert large < 0.2  # each of ten classes has a tenth
    assert small > 0.4


def test_one_client_gets_everything() -> None:
    for kind in KINDS:
        (part,) = parts_of(kind=kind, partitions=1, classes_per_client=10)
        np.testing.assert_array_equal(part, np.arange(len(LABELS)))


@pytest.mark.parametrize("kind", KINDS)
def test_too_few_images_name_the_keys(kind: str) -> None:
    with pytest.raises(DataError, match=r"2000 training images.*12 clients.*data.min_client_size"):
        parts_of(kind=kind, min_client_size=167)


def test_unreachable_dirichlet_partition_names_the_keys_without_warnings() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(DataError) as caught:
            parts_of(concentration=0.01, min_client_size=150)

    message = str(caught.value)
    for key in ("data.concentration", "data.min_client_size", "clients"):
        assert key in message
    assert "\n" not in message


@pytest.mark.parametrize("concentration", [1e-300, 1e-6])
def test_tiny_concentration_is_an_error_that_names_it(concentration: float) -> None:
    with pytest.raises(DataError, match=r"data.concentration"):
        parts_of(concentration=concentration)


def test_huge_concentration_makes_clients_alike() -> None:
    assert skew(parts_of(concentration=1e300)) < 0.2


def test_unreachable_pathological_partition_names_the_keys() -> None:
    labels = np.repeat([0, 1], [95, 5])  # six clients share five images of class 1

    with pytest.raises(DataError, match=r"data.classes_per_client=1.*data.min_client_size"):
        parts_of(labels, kind="pathological", classes_per_client=1, min_client_size=3)


@pytest.mark.parametrize(("clients", "classes_per_client"), [(12, 11), (4, 2)])
def test_impossible_number_of_classes_is_named(clients: int, classes_per_client: int) -> None:
    with pytest.raises(DataError, match=r"data.classes_per_client.*10 classes"):
        parts_of(kind="pathological", partitions=clients, classes_per_client=classes_per_client)


def test_unknown_kind_is_named() -> None:
    with pytest.raises(DataError, match=r"data.partition.*'sorted'"):
        parts_of(kind="sorted")


def sizes_of(parts: Split) -> tuple[int, int, int]:
    return len(parts.support), len(parts.query), len(parts.test)


@pytest.mark.parametrize(
    ("count", "support", "query", "sizes"),
    [
        (100, 0.3, 0.55, (30, 55, 15)),
        (3, 0.3, 0.55, (1, 1, 1)),
        (4, 0.98, 0.01, (2, 1, 1)),
        (5, 0.01, 0.98, (1, 3, 1)),
        (50, 0.001, 0.001, (1, 1, 48)),
    ],
)
def test_split_is_complete_disjoint_and_nowhere_empty(
    count: int, support: float, query: float, sizes: tuple[int, int, int]
) -> None:
    indices = np.arange(count) * 7 + 3

    parts = split(indices, support, query, seed=1, partition_id=2)

    assert sizes_of(parts) == sizes
    together = np.concatenate([parts.support, parts.query, parts.test])
    np.testing.assert_array_equal(np.sort(together), indices)
    assert all((np.diff(part) > 0).all() for part in (parts.support, parts.query, parts.test))


def test_split_depends_on_seed_and_partition_and_nothing_else() -> None:
    indices = np.arange(60)

    first = split(indices, 0.3, 0.55, seed=1, partition_id=2)
    again = split(indices, 0.3, 0.55, seed=1, partition_id=2)
    others = [
        split(indices, 0.3, 0.55, seed=seed, partition_id=number)
        for seed, number in ((1, 3), (2, 2), (2, 1), (1, 0))
    ]

    np.testing.assert_array_equal(first.support, again.support)
    np.testing.assert_array_equal(first.query, again.query)
    supports = [tuple(part.support) for part in (first, *others)]
    assert len(set(supports)) == len(supports)


def test_split_of_two_images_is_refused() -> None:
    with pytest.raises(DataError, match=r"client 4 has 2 images.*data.min_client_size"):
        split(np.arange(2), 0.3, 0.55, seed=0, partition_id=4)


def same(first: tuple[np.ndarray, ...], second: tuple[np.ndarray, ...]) -> bool:
    return len(first) == len(second) and all(
        a.dtype == b.dtype and np.array_equal(a, b) for a, b in zip(first, second, strict=True)
    )


def test_a_partition_is_made_once_and_read_after_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = open_partition(LABELS, plan_of(), str(tmp_path))
    assert same(made, parts_of())

    with monkeypatch.context() as patch:
        patch.setattr(partition_cache, "partition", None)  # calling it would fail
        assert same(open_partition(LABELS, plan_of(), str(tmp_path)), made)
    assert len(list(tmp_path.iterdir())) == 1


def test_other_labels_or_plans_have_partitions_of_their_own(tmp_path: Path) -> None:
    relabelled = LABELS.copy()
    relabelled[0] = (relabelled[0] + 1) % 10
    open_partition(LABELS, plan_of(), str(tmp_path))

    assert same(open_partition(LABELS, plan_of(seed=4), str(tmp_path)), parts_of(seed=4))
    assert same(open_partition(relabelled, plan_of(), str(tmp_path)), parts_of(relabelled))
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("damage", ["cut", "empty", "header", "bit", "of another plan"])
def test_a_damaged_partition_is_made_again(damage: str, tmp_path: Path) -> None:
    made = open_partition(LABELS, plan_of(), str(tmp_path))
    (file,) = tmp_path.iterdir()
    content = file.read_bytes()
    if damage == "header":
        file.write_bytes(content.replace(b"}", b"\xfd", 1))
    elif damage == "bit":  # the last image goes to a client next to its own
        file.write_bytes(content[:-8] + bytes([content[-8] ^ 1]) + content[-7:])
    elif damage == "of another plan":
        open_partition(LABELS, plan_of(seed=4), str(tmp_path))
        (other,) = set(tmp_path.iterdir()) - {file}
        other.rename(file)
    else:
        file.write_bytes(content[: len(content) // 2 if damage == "cut" else 0])

    assert same(open_partition(LABELS, plan_of(), str(tmp_path)), made)
    assert file.read_bytes() == content


def test_a_cache_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(DataError, match=r"cannot write the cache .*file.*data\.cache"):
        open_partition(LABELS, plan_of(), str(tmp_path / "file" / "cache"))
