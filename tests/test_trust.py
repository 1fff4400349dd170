"""What a client takes from a server and a run from files: data, never code, and no path."""

import ast
from pathlib import Path

import numpy as np
import pytest
import tiny
from PIL import Image

from fedmetanas.errors import SettingsError
from fedmetanas.experiments.experiment import Experiment, experiment_of, open_experiment
from fedmetanas.experiments.settings import load

ROOT = Path(__file__).parents[1]
HOUSE = ("search_space", "strategies", "experiments", "client", "server", "benchmarks")


def images(root: Path, value: int) -> str:
    """Write a dataset of images of one grey."""
    for part in ("train", "test"):
        for label in ("a", "b"):
            folder = root / part / label
            folder.mkdir(parents=True)
            for number in range(20):
                image = Image.fromarray(np.full((8, 8), value, np.uint8))
                image.save(folder / f"{number}.png")
    return str(root)


def test_a_client_reads_its_own_data_and_no_path_that_was_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "own-cache"))
    own = images(tmp_path / "own", 50)
    servers, cache = images(tmp_path / "servers", 200), tmp_path / "servers-cache"
    settings = tiny.settings_of(
        *("data.dataset=imagefolder", f"data.root={servers}", f"data.cache={cache}"),
        *("data.partition=iid", "data.min_client_size=3", "data.download=true"),
    )
    sent = {"settings": settings.to_yaml()}

    opened = experiment_of(sent, {"data-path": own, "partition-id": 0, "num-partitions": 4})

    assert set(np.unique(opened.dataset.train.images)) == {50}
    assert not cache.exists()
    assert not opened.settings.data.download
    with pytest.raises(SettingsError, match="data-path"):
        experiment_of(sent, {})
    assert not cache.exists()
    with pytest.raises(SettingsError, match="data-path"):  # as Flower's help starts SuperNodes
        experiment_of(sent, {"num-partitions": 4, "partition-id": 0})
    assert not cache.exists()
    with pytest.raises(SettingsError, match="site, its name; or partition-id"):
        experiment_of(sent, {"data-path": own})  # whose images are they?
    simulated = experiment_of(sent, {"simulated": True})
    assert set(np.unique(simulated.dataset.train.images)) == {200}
    both = experiment_of(
        sent, {"simulated": True, "data-path": own, "partition-id": 1, "num-partitions": 4}
    )
    assert set(np.unique(both.dataset.train.images)) == {50}


def of_dartss_size(root: str, cache: Path, *overrides: str) -> Experiment:
    """Open the largest experiment that is shipped, on images of one's own."""
    own = ("data.dataset=imagefolder", f"data.root={root}", "data.image_size=32")
    few = (f"data.cache={cache}", "clients=2", "data.min_client_size=3", "data.partition=iid")
    return open_experiment(load("cifar10", [*own, *few, *overrides]))


def test_a_server_cannot_ask_for_more_memory_than_there_is(tmp_path: Path) -> None:
    root = images(tmp_path / "images", 50)

    for allowed in ([], ["client.second_order=true"], ["evaluation.batch_size=2048"]):
        of_dartss_size(root, tmp_path / "cache", *allowed)
    for keys, refused in (
        ("client.batch_size", ["client.batch_size=1024"]),
        ("client.inner_steps", ["client.second_order=true", "client.inner_steps=4"]),
        ("client.batch_size", ["client.second_order=true", "client.batch_size=128"]),
        ("evaluation.batch_size", ["evaluation.batch_size=10000"]),
    ):
        with pytest.raises(SettingsError, match=f"{keys}.*: .* at most 5,000,000,000; lower"):
            of_dartss_size(root, tmp_path / "cache", *refused)


FORBIDDEN = {"eval", "exec", "compile", "pickle", "marshal", "shelve", "dill", "unsafe_load"}


@pytest.mark.parametrize("folder", HOUSE)
def test_nothing_is_unpickled_or_evaluated(folder: str) -> None:
    for path in (ROOT / folder).rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {alias.name.partition(".")[0] for alias in node.names}
                names.add((getattr(node, "module", None) or "").partition(".")[0])
                assert not names & FORBIDDEN, path
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in FORBIDDEN, path
                assert called != "torch.load", path
                if called == "np.load":
                    assert "allow_pickle=False" in ast.unparse(node), path
                if called == "yaml.load":
                    assert "Loader=_Loader" in ast.unparse(node), path
