"""Bad input of all kinds: one line that says what is wrong, and nothing is read as something else.

The long versions of these tests are in the soak.
"""

import json
import pickle
import random
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file
from test_checkpoint import damaged, experiment_file, files_of
from test_datasets import write_mnist

from fedmetanas.errors import (
    USER_ERRORS,
    DataError,
    GenotypeError,
    SettingsError,
    StrategyError,
    UnwritableError,
)
from fedmetanas.experiments.commands.main import main
from fedmetanas.experiments.data.cache import open_dataset
from fedmetanas.experiments.data.decoding import decode
from fedmetanas.experiments.data.registry import Source
from fedmetanas.experiments.results import run_folder
from fedmetanas.experiments.run import check
from fedmetanas.experiments.settings import Settings, from_yaml
from fedmetanas.server.record import Record
from fedmetanas.strategies.registry import make_strategy


def short_and_long(short: int, long: int) -> Any:
    """Run a test with a small number in the suite and with a large one in the soak."""
    return pytest.mark.parametrize("count", [short, pytest.param(long, marks=pytest.mark.soak)])


def examples(number: int) -> settings:
    slow = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
    return settings(max_examples=number, deadline=None, suppress_health_check=slow, database=None)


# Settings


def keys_of(tree: dict[str, Any], prefix: str = "") -> list[str]:
    keys = []
    for key, value in tree.items():
        keys.append(prefix + key)
        if isinstance(value, dict) and value:
            keys += keys_of(value, f"{prefix}{key}.")
    return keys


KEYS = keys_of(yaml.safe_load(Settings().to_yaml()))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)


def settings_or_a_line_with(words: str, make: Callable[[], Settings]) -> None:
    try:
        made = make()
    except SettingsError as error:
        message = str(error)
        assert len(message.splitlines()) == 1, message
        assert len(message) < 2000
        assert words in message
    else:
        assert from_yaml(made.to_yaml()) == made


@short_and_long(100, 2000)
def test_any_value_of_any_key_is_taken_or_named(count: int) -> None:
    @examples(count)
    @given(st.sampled_from(KEYS), VALUES)
    def check(key: str, value: Any) -> None:
        *sections, last = key.split(".")
        tree: Any = {last: value}
        for section in reversed(sections):
            tree = {section: tree}

        words = "is not valid YAML" if "\0" in repr(value) else last
        settings_or_a_line_with(words, lambda: from_yaml(yaml.safe_dump(tree)))
        text = yaml.safe_dump(value, default_flow_style=True).removesuffix("...\n")
        settings_or_a_line_with(last, lambda: from_yaml("", [f"{key}={text}"]))

    check()


@short_and_long(100, 1000)
def test_a_run_of_any_value_of_any_key_is_checked_or_refused_in_a_line(
    count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    @examples(count)
    @given(st.sampled_from(KEYS), VALUES)
    def check_one(key: str, value: Any) -> None:
        text = yaml.safe_dump(value, default_flow_style=True).removesuffix("...\n")
        try:
            check(from_yaml(tiny.YAML, [f"{key}={text}"]), "inline")
        except USER_ERRORS as error:
            message = str(error)
            assert len(message.splitlines()) == 1, message

    check_one()


@short_and_long(100, 2000)
def test_any_text_is_settings_or_a_line(count: int) -> None:
    @examples(count)
    @given(st.text() | st.text(alphabet="&*!|>{}[]:-,'\"\n #%@`ab01"))
    def check(text: str) -> None:
        settings_or_a_line_with("", lambda: from_yaml(text))
        settings_or_a_line_with("", lambda: from_yaml("", [text]))

    check()


# Strategies

FLOWERS = "flwr.serverapp.strategy"


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        (f"{FLOWERS}:FedAdam", {"eta": "abc"}, "a number; found 'abc'"),
        (f"{FLOWERS}:FedAdam", {"eta": True}, "a number; found True"),
        (f"{FLOWERS}:FedAdam", {"eta": float("nan")}, "a number; found nan"),
        (f"{FLOWERS}:FedAdam", {"tau": float("inf")}, "a number; found inf"),
        (f"{FLOWERS}:FedAvg", {"fraction_train": "abc"}, "a number"),
        (f"{FLOWERS}:FedAvg", {"fraction_train": 0}, "greater than 0 and at most 1"),
        (f"{FLOWERS}:FedAvg", {"fraction_train": 5}, "greater than 0 and at most 1"),
        (f"{FLOWERS}:FedAvg", {"fraction_evaluate": 1.5}, "left out"),
        (f"{FLOWERS}:FedAvg", {"fraction_evaluate": 0.5}, "left out"),
        (f"{FLOWERS}:FedAdam", {"eta_l": 0.1}, "left out"),
        (f"{FLOWERS}:FedAvg", {"min_train_nodes": 99}, "left out"),
        (f"{FLOWERS}:FedAvg", {"weighted_by_key": 3}, "a text"),
        (f"{FLOWERS}:FedAvg", {"arrayrecord_key": [1]}, "left out"),
        (f"{FLOWERS}:FedAvg", {"train_metrics_aggr_fn": 3}, "what YAML cannot hold"),
        (f"{FLOWERS}:Krum", {"num_malicious_nodes": 1.5}, "a whole number"),
        (f"{FLOWERS}:QFedAvg", {"client_learning_rate": "fast"}, "a number"),
        ("fednas", {"search_share": "half"}, "a number"),
        ("fednas", {"alphas_rule": 3}, "a text"),
        ("random", {"draw": "first"}, "a whole number"),
    ],
)
def test_an_option_of_another_kind_than_the_strategys_is_named(
    name: str, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(StrategyError) as caught:
        make_strategy(name, options, tiny.experiment_of().plan)

    assert re.fullmatch(f"strategy.options.{next(iter(options))}: {name}: .*", str(caught.value))
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [
        {"eta": 1, "tau": 1e-9, "fraction_train": 0.5},
        {"weighted_by_key": "num-examples", "train_metrics_aggr_fn": None},
    ],
)
def test_options_of_the_right_kind_run(options: dict[str, Any]) -> None:
    strategy = make_strategy(f"{FLOWERS}:FedAdam", options, tiny.experiment_of().plan)

    assert tiny.run_search("rounds=1", strategy=strategy).summary["operations"] == 4


@pytest.mark.parametrize(
    "raises", ["raise OSError('no\\ndisplay')", "import sys; sys.exit(3)", "1/0"]
)
def test_a_strategys_module_that_raises_is_named(
    raises: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "raises_on_import.py").write_text(raises)
    monkeypatch.syspath_prepend(tmp_path)

    with pytest.raises(StrategyError) as caught:
        make_strategy("raises_on_import:Mine", {}, tiny.experiment_of().plan)

    assert re.fullmatch(
        "strategy.name: cannot find 'raises_on_import:Mine': "
        "(OSError: no display|SystemExit: 3|ZeroDivisionError: .*)",
        str(caught.value),
    )


# Consoles and signals


def test_whatever_a_message_holds_it_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file's name may hold anything."""
    folder = tmp_path / "no\nwhere\x1b[31m"
    folder.mkdir()
    (folder / "mine").touch()

    assert main(["run", "digits", "--engine", "inline", "--out", str(folder)]) == 2

    said = capsys.readouterr().err
    assert "no where?[31m is not empty" in said
    assert len(said.splitlines()) == 1


def started(*arguments: str, **options: Any) -> "subprocess.Popen[str]":
    """Start the program in a process of its own, of which no signal is ignored."""

    def heed_signals() -> None:
        for number in (signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)

    return subprocess.Popen(
        [sys.executable, "-m", "fedmetanas", *arguments],
        cwd=Path(__file__).parents[1],
        text=True,
        stderr=subprocess.PIPE,
        preexec_fn=heed_signals,
        **options,
    )


@pytest.mark.parametrize("command", ["evaluate", "draw"])
def test_a_console_that_cannot_be_written_is_no_error(
    command: str, whole: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(whole, tmp_path / "run")
    with open("/dev/full", "w") as full:
        process = started(command, str(folder), stdout=full)
        _, said = process.communicate(timeout=60)

    assert (process.returncode, said) == (0, "")


@pytest.mark.parametrize("command", ["run", "compare"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_run_as_ctrl_c_does(
    number: signal.Signals, command: str, tmp_path: Path
) -> None:
    file = experiment_file(tmp_path, "rounds=10000", "evaluation.every=10000")
    arguments = [command, file, "--engine", "inline", "--out", str(tmp_path / "out")]
    if command == "compare":
        arguments += ["--strategies", "fedmetanas", "--seeds", "0"]
    process = started(*arguments, stdout=subprocess.PIPE)
    assert process.stdout is not None
    while "round 2/" not in process.stdout.readline():
        assert process.poll() is None

    process.send_signal(number)
    _, said = process.communicate(timeout=60)  # until no process has the pipes any more

    assert process.returncode == 128 + number
    go_on = {
        "run": f"go on with: fedmetanas run --resume {tmp_path / 'out'}",
        "compare": "the same command goes on",
    }
    assert said.strip() == f"fedmetanas: stopped; {go_on[command]}"
    (checkpoints,) = (tmp_path / "out").rglob("checkpoints")
    assert any(checkpoints.iterdir())


def test_ctrl_c_while_all_is_imported_ends_in_silence() -> None:
    process = started("run", "digits", stdout=subprocess.PIPE)
    mapped = Path(f"/proc/{process.pid}/maps")
    while "numpy" not in mapped.read_text():  # the first of what is slow to import
        assert process.poll() is None

    process.send_signal(signal.SIGINT)

    assert process.communicate(timeout=60) == ("", "")
    assert process.returncode == -signal.SIGINT


# What a run has left


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results folder of a run."""
    folder = tmp_path_factory.mktemp("whole")
    strategy = tiny.strategy_of("rounds=2")
    record = Record(folder, tiny.experiment_of("rounds=2"), strategy)
    tiny.run_search("rounds=2", strategy=strategy, hooks=[record])
    return folder


@short_and_long(100, 1000)
@pytest.mark.parametrize("name", ["genotype.json", "weights.safetensors"])
def test_a_damaged_network_is_never_read_as_another(
    name: str, count: int, whole: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(whole, tmp_path / "run"))
    content = (folder / name).read_bytes()
    weights = load_file(folder / "weights.safetensors")
    genotype = run_folder.read(folder).genotype
    refused = 0
    for seed in range(count):
        (folder / name).write_bytes(damaged(content, seed))
        try:
            found = run_folder.read(folder)
        except GenotypeError as error:
            refused += str(folder) in str(error) and len(str(error).splitlines()) == 1
            continue
        assert found.genotype == genotype
        assert tiny.same_bits(dict(found.network.named_parameters()), weights)
    assert refused > 0.9 * count


def exchange(path: Path, old: bytes, new: bytes) -> None:
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("genotype.json", None, ["genotype.json", "No such file"]),
        ("genotype.json", b"", ["genotype.json", "not valid JSON"]),
        ("genotype.json", b"\xff\xfe", ["genotype.json"]),
        ("genotype.json", b"[" * 100_000, ["genotype.json", "not valid JSON"]),
        ("weights.safetensors", None, ["weights.safetensors", "No such file"]),
        ("weights.safetensors", b"", ["weights.safetensors"]),
        ("weights.safetensors", b"\x80\x04K\x01.", ["weights.safetensors"]),
        ("weights.safetensors", b"\xff" * 100, ["weights.safetensors"]),
        ("settings.yaml", b"#" * 1_000_001, ["settings.yaml", "at most 1000000 bytes"]),
        ("settings.yaml", b"a: &x [1]\nb: *x", ["settings.yaml", "aliases"]),
        ("settings.yaml", b"a: !!python/object:os.system {}", ["settings.yaml", "tags"]),
    ],
)
@pytest.mark.parametrize("command", ["evaluate", "draw"])
def test_a_broken_file_of_a_run_is_one_line(
    command: str,
    name: str,
    content: bytes | None,
    words: list[str],
    whole: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = Path(shutil.copytree(whole, tmp_path / "run"))
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content)
    before = files_of(folder)

    assert main([command, str(folder)]) == 2

    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1, said
    assert all(word in said for word in words), said
    assert files_of(folder) == before


@pytest.mark.parametrize("command", ["evaluate", "draw"])
def test_of_a_run_that_has_not_finished_one_line_says_how_to_go_on(
    command: str, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "a run"
    folder.mkdir()
    shutil.copy(whole / "settings.yaml", folder)

    assert main([command, str(folder)]) == 2

    said = capsys.readouterr().err
    assert said == (
        f"fedmetanas: {folder}: this run has not finished; "
        f"go on with: fedmetanas run --resume '{folder}'\n"
    )


def test_weights_of_another_run_are_refused(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of the same shapes, they would be another model in silence."""
    folder = Path(shutil.copytree(whole, tmp_path / "run"))
    genotype = json.loads((folder / "genotype.json").read_text())
    cell = genotype["normal"][0]
    cell[0][1], cell[1][1] = cell[1][1], cell[0][1]
    (folder / "genotype.json").write_text(json.dumps(genotype))

    assert main(["evaluate", str(folder)]) == 2

    assert "weights.safetensors: its digest" in capsys.readouterr().err


# A comparison over damaged runs


SUMMARY = b'{"rounds": 2, "test_accuracy": %b}'


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("summary.json", b'{"test_accuracy": 0.9'),
        ("summary.json", b"[1, 2]"),
        ("summary.json", b"{}"),
        ("summary.json", SUMMARY % b'"0.9", "algorithm_seconds": {"total": 1.0}'),
        ("summary.json", SUMMARY % b'0.9, "algorithm_seconds": 1.0'),
        ("summary.json", SUMMARY % b'0.9, "algorithm_seconds": {"total": null}'),
        ("metrics.jsonl", b'{"round": 1}'),
        ("metrics.jsonl", b"3"),
        ("metrics.jsonl", b""),
        ("summary.json", b"\xff"),
        ("metrics.jsonl", b'{"round": 1'),
    ],
)
def test_compare_over_a_damaged_run_is_one_line(
    name: str,
    content: bytes,
    whole: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "out" / "fedmetanas" / "seed-0"
    shutil.copytree(whole, folder)
    (folder / name).write_bytes(content)
    before = files_of(folder)
    file = experiment_file(tmp_path, "rounds=2")
    arguments = ["--strategies", "fedmetanas", "--seeds", "0", "--engine", "inline"]

    assert main(["compare", file, *arguments, "--out", str(tmp_path / "out")]) == 2

    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1, said
    assert f"{folder / name} is damaged" in said
    assert files_of(folder) == before


# Full disks


def test_a_disk_that_is_full_at_once_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "settings.yaml.part").symlink_to("/dev/full")
    arguments = ["run", experiment_file(tmp_path), "--engine", "inline", "--out", str(folder)]

    assert main(arguments) == 2

    said = capsys.readouterr().err.splitlines()
    assert said[0] == (
        f"fedmetanas: cannot write {folder / 'settings.yaml'}: No space left on device"
    )
    assert list(folder.iterdir()) == []


def test_metrics_on_a_full_disk_end_the_run_in_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    strategy = tiny.strategy_of()
    folder.mkdir()
    record = Record(folder, tiny.experiment_of(), strategy)
    (folder / "metrics.jsonl").symlink_to("/dev/full")

    with pytest.raises(UnwritableError, match=r"metrics\.jsonl: No space left on device$"):
        tiny.run_search(strategy=strategy, hooks=[record])


def test_a_picture_that_cannot_be_written_is_one_line(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(whole, tmp_path / "run"))
    (folder / "cells.png").mkdir()

    assert main(["draw", str(folder)]) == 2

    said = capsys.readouterr().err
    assert said == f"fedmetanas: cannot write {folder / 'cells.png'}: Is a directory\n"


# Images


def images_in(root: Path, ending: str) -> list[Path]:
    source = np.random.default_rng(0)
    paths = []
    for part in ("train", "test"):
        for label in ("a", "b"):
            folder = root / part / label
            folder.mkdir(parents=True)
            paths.append(folder / f"0.{ending}")
            Image.fromarray(source.integers(0, 255, (9, 8, 3), np.uint8)).save(paths[-1])
    return paths


@short_and_long(60, 1000)
@pytest.mark.parametrize("ending", ["png", "jpg", "bmp"])
def test_a_damaged_image_is_named_or_read(ending: str, count: int, tmp_path: Path) -> None:
    paths = images_in(tmp_path, ending)
    source = Source("imagefolder", tmp_path, download=False, image_size=None)
    assert decode(source).train.images.shape == (2, 9, 8, 3)
    draw = random.Random(0)
    named = read = 0
    for seed in range(count):
        path = draw.choice(paths)
        content = path.read_bytes()
        path.write_bytes(damaged(content, seed))
        try:
            decode(source)
        except DataError as error:
            named += str(tmp_path) in str(error) and len(str(error).splitlines()) == 1
            continue
        finally:
            path.write_bytes(content)
        read += 1
    assert named > 0
    assert named + read == count


@short_and_long(60, 1000)
def test_a_damaged_idx_file_is_named_or_read(count: int, tmp_path: Path) -> None:
    write_mnist(tmp_path / "MNIST" / "raw", np.random.default_rng(0))
    paths = sorted((tmp_path / "MNIST" / "raw").iterdir())
    source = Source("mnist", tmp_path, download=False, image_size=None)
    draw = random.Random(0)
    named = []
    for seed in range(count):
        path = draw.choice(paths)
        content = path.read_bytes()
        path.write_bytes(damaged(content, seed))
        try:
            read = decode(source)
        except DataError as error:
            named.append(str(error))
        else:
            assert read.train.images.shape == (7, 28, 28, 1)
            assert read.test.images.shape == (3, 28, 28, 1)
        finally:
            path.write_bytes(content)
    assert 0 < len(named) < count
    assert all(words.startswith("mnist") and len(words.splitlines()) == 1 for words in named)


class Marker:
    """Something whose pickle makes a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.mark.parametrize(
    ("name", "folder", "files"),
    [
        ("cifar10", "cifar-10-batches-py", ["test_batch", "batches.meta"]),
        ("cifar100", "cifar-100-python", ["train", "test", "meta"]),
    ],
)
def test_a_cifar_file_that_is_not_the_original_is_not_unpickled(
    name: str, folder: str, files: list[str], tmp_path: Path
) -> None:
    (tmp_path / folder).mkdir()
    for file in [*files, *(f"data_batch_{number}" for number in range(1, 6))]:
        (tmp_path / folder / file).write_bytes(pickle.dumps(Marker(tmp_path / "unpickled")))

    with pytest.raises(DataError, match=folder):
        decode(Source(name, tmp_path, download=False, image_size=None))

    assert not (tmp_path / "unpickled").exists()


@short_and_long(60, 1000)
def test_a_damaged_cache_is_made_anew(count: int, tmp_path: Path) -> None:
    images_in(tmp_path / "images", "png")
    source = Source("imagefolder", tmp_path / "images", download=False, image_size=None)
    whole = open_dataset(source, str(tmp_path / "cache"))
    (entry,) = (tmp_path / "cache").iterdir()
    paths = sorted(entry.iterdir())
    draw = random.Random(0)
    anew = 0
    for seed in range(count):
        path = draw.choice(paths)
        content = path.read_bytes()
        path.write_bytes(damaged(content, seed))
        opened = open_dataset(source, str(tmp_path / "cache"))
        assert opened.train.images.shape == whole.train.images.shape
        assert opened.test.images.shape == whole.test.images.shape
        assert len(opened.classes) == 2
        anew += path.read_bytes() == content
        path.write_bytes(content)
    assert anew == count
