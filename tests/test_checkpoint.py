"""Checkpoints and what goes on from them: the bits of an uninterrupted run, or a refusal."""

import errno
import fcntl
import json
import multiprocessing
import os
import random
import shutil
import signal
import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from flwr.app import ArrayRecord
from flwr.serverapp.strategy import FedAvg
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays as any_array
from PIL import Image
from safetensors.torch import load_file

from fedmetanas.errors import CheckpointError, SettingsError
from fedmetanas.experiments.commands.main import main
from fedmetanas.experiments.comparison.variants import read_variants
from fedmetanas.experiments.engines.inline import run_inline
from fedmetanas.experiments.results import checkpoint, run_folder
from fedmetanas.experiments.results.checkpoint import Checkpoint, resumable
from fedmetanas.search_space.alphas import Alphas, Mask, Topology
from fedmetanas.server.loop import RoundResult, SearchResult, SearchState
from fedmetanas.server.record import Record
from fedmetanas.strategies import wire
from fedmetanas.strategies.state import StateError, pack, state_of, unpack

# Enough is pruned in four rounds that masks and keys change on the way.
SETTINGS = ("rounds=4", "search.operation_threshold=0.333", "search.tau_end=1.0e-5")


class StoppedOnPurposeError(Exception):
    """The interruption of a test."""


class StopAfter:
    """A hook that ends the run after a round."""

    def __init__(self, last: int) -> None:
        self.last = last

    def on_round(self, result: RoundResult, state: SearchState) -> None:
        if state.round == self.last:
            raise StoppedOnPurposeError

    def on_end(self, result: SearchResult) -> None:
        raise AssertionError("it was to be interrupted")


def experiment_file(folder: Path, *overrides: str) -> str:
    path = folder / "tiny.yaml"
    path.write_text(tiny.settings_of(*overrides).to_yaml())
    return str(path)


def run_to_the_end(folder: Path, *overrides: str) -> None:
    folder.mkdir()
    strategy = tiny.strategy_of(*overrides)
    record = Record(folder, tiny.experiment_of(*overrides), strategy)
    tiny.run_search(*overrides, strategy=strategy, hooks=[record])


def run_until(last: int, folder: Path, *overrides: str) -> None:
    """Leave what a run leaves that is interrupted after a round."""
    folder.mkdir()
    strategy = tiny.strategy_of(*overrides)
    record = Record(folder, tiny.experiment_of(*overrides), strategy)
    with pytest.raises(StoppedOnPurposeError):
        tiny.run_search(*overrides, strategy=strategy, hooks=[record, StopAfter(last)])


def resume(folder: Path, *arguments: str) -> int:
    return main(["run", "--resume", str(folder), "--engine", "inline", *arguments])


def metrics_of(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of metrics but for the times."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        del line["seconds"]
    return lines


def assert_same_run(first: Path, second: Path) -> None:
    """Same files, genotype, weights to the last bit, and metrics and summary but for times."""
    assert {p.name for p in first.iterdir()} == {p.name for p in second.iterdir()}
    assert (first / "genotype.json").read_bytes() == (second / "genotype.json").read_bytes()
    weights = [load_file(path / "weights.safetensors") for path in (first, second)]
    assert tiny.same_bits(*weights)
    assert metrics_of(first) == metrics_of(second)
    summaries = [json.loads((path / "summary.json").read_text()) for path in (first, second)]
    for summary in summaries:
        del summary["seconds"], summary["algorithm_seconds"]
    assert summaries[0] == summaries[1]


# The same bits


FLOWER = "strategy.name=flwr.serverapp.strategy:"
STRATEGIES = {
    "fedmetanas": (),
    "fednas": ("strategy.name=fednas",),
    "finalists": ("strategy.name=finalists", "strategy.options={search_share: 0.4}"),
    "random": ("strategy.name=random",),
    "FedAdam": (f"{FLOWER}FedAdam", "strategy.options={eta: 0.01}"),
    "FedYogi": (f"{FLOWER}FedYogi", "strategy.options={eta: 0.01}"),
    "FedAvgM": (f"{FLOWER}FedAvgM", "strategy.options={server_momentum: 0.9}"),
    "FedTrimmedAvg": (f"{FLOWER}FedTrimmedAvg",),
    "in privacy": (
        f"{FLOWER}DifferentialPrivacyServerSideAdaptiveClipping",
        "strategy.options.noise_multiplier=0.01",
        f"strategy.options.num_sampled_clients={tiny.settings_of(*SETTINGS).drawn}",
        "strategy.options.strategy={name: fedmetanas}",
    ),
}


# After which round: FedNAS's network is derived, finalists are compared in round 3. The rest is in
# the soak.
SHORT = [
    *(("fedmetanas", 1), ("fedmetanas", 4), ("fednas", 2), ("fednas", 3)),
    *(("finalists", 2), ("finalists", 3), ("FedAdam", 2)),
    ("in privacy", 2),
]
LONG = [(name, last) for name in STRATEGIES for last in (1, 2, 3, 4)]


@pytest.mark.parametrize(
    ("name", "last"),
    [*SHORT, *(pytest.param(*case, marks=pytest.mark.soak) for case in LONG if case not in SHORT)],
)
def test_a_resumed_run_ends_with_the_same_bits(name: str, last: int, tmp_path: Path) -> None:
    overrides = (*SETTINGS, *STRATEGIES[name])
    run_to_the_end(tmp_path / "whole", *overrides)
    run_until(last, tmp_path / "run", *overrides)

    assert resume(tmp_path / "run") == 0

    assert_same_run(tmp_path / "whole", tmp_path / "run")


def test_an_optimisers_moments_are_part_of_a_checkpoint(tmp_path: Path) -> None:
    """Without them a resumed run of FedAdam would be another: the test above can fail."""
    overrides = (*SETTINGS, *STRATEGIES["FedAdam"])
    run_to_the_end(tmp_path / "whole", *overrides)
    run_until(2, tmp_path / "run", *overrides)

    saved, _ = resumable(tmp_path / "run", tiny.experiment_of(*overrides))
    assert saved is not None
    assert {"m_t", "v_t"} <= saved.strategy.keys()
    earlier = SearchState(saved.round, wire.to_record(saved.arrays), saved.totals)
    forgetful = tiny.run_search(*overrides, earlier=earlier)

    assert not tiny.same_bits(
        forgetful.weights, load_file(tmp_path / "whole" / "weights.safetensors")
    )


def test_what_was_spent_before_is_counted(tmp_path: Path) -> None:
    run_until(3, tmp_path / "run", *SETTINGS)
    saved, _ = resumable(tmp_path / "run", tiny.experiment_of(*SETTINGS))
    assert saved is not None

    assert resume(tmp_path / "run") == 0

    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    seconds = [json.loads(line)["seconds"] for line in lines]
    assert summary["seconds"] > saved.totals["seconds"] + seconds[-1]["total"]
    own = sum(parts["total"] - parts["evaluation"] for parts in seconds)
    assert summary["algorithm_seconds"]["total"] == pytest.approx(own)


def test_lines_behind_the_checkpoint_are_cut_off(tmp_path: Path) -> None:
    run_to_the_end(tmp_path / "whole", *SETTINGS)
    run_until(2, tmp_path / "run", *SETTINGS)
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
        file.write('{"round": 3, "phase": "sear')  # killed while it was written

    assert resume(tmp_path / "run") == 0

    assert_same_run(tmp_path / "whole", tmp_path / "run")


def test_a_run_killed_before_its_first_checkpoint_starts_anew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_to_the_end(tmp_path / "whole", *SETTINGS)
    run_until(1, tmp_path / "run", *SETTINGS)
    shutil.rmtree(tmp_path / "run" / "checkpoints")

    assert resume(tmp_path / "run") == 0

    assert_same_run(tmp_path / "whole", tmp_path / "run")
    assert "holds no checkpoint: the run starts with its first round" in capsys.readouterr().out


# Killed


def in_a_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """Start a process of its own that shares what is imported here."""
    process = multiprocessing.get_context("fork").Process(target=function, args=arguments)
    process.start()
    return process


def killed_at(moment: str, call: int, arguments: list[str]) -> None:
    """Run the command and kill this process at the n-th call of a function of ``os``."""
    calls = 0
    function = getattr(os, moment)

    def deadly(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args)

    setattr(os, moment, deadly)
    main(arguments)


# Settings, then the checkpoint of each of four rounds, the genotype, the weights, the summary.
@pytest.mark.parametrize(
    "call", [pytest.param(n, marks=[] if n in (3, 8) else pytest.mark.soak) for n in range(2, 9)]
)
def test_killed_while_a_file_is_written(call: int, tmp_path: Path) -> None:
    run_to_the_end(tmp_path / "whole", *SETTINGS)
    arguments = ["run", experiment_file(tmp_path, *SETTINGS), "--engine", "inline"]
    folder = tmp_path / "run"

    process = in_a_process(killed_at, "replace", call, [*arguments, "--out", str(folder)])
    process.join()

    assert process.exitcode == -signal.SIGKILL
    assert list(folder.rglob("*.part"))  # it was about to take its place
    assert resume(folder) == 0
    assert_same_run(tmp_path / "whole", folder)


@pytest.mark.parametrize(
    ("runs", "kills"), [(1, 3), *(pytest.param(20, n, marks=pytest.mark.soak) for n in (1, 3))]
)
def test_killed_at_random_moments(runs: int, kills: int, tmp_path: Path) -> None:
    """Each run is killed, and its resumptions; at last it is left alone."""
    overrides = (*SETTINGS, "rounds=6")
    run_to_the_end(tmp_path / "whole", *overrides)
    arguments = ["run", experiment_file(tmp_path, *overrides), "--engine", "inline"]
    started = time.perf_counter()
    in_a_process(main, [*arguments, "--out", str(tmp_path / "timed")]).join()
    longest = 0.9 * (time.perf_counter() - started) / kills
    moments = random.Random(kills)
    landed = 0

    def again(folder: Path) -> list[str]:
        """Return the command that goes on, or starts if the kill came before anything was there."""
        begun = (folder / "settings.yaml").exists()
        return [*arguments, "--resume" if begun else "--out", str(folder)]

    for number in range(runs):
        folder = tmp_path / f"run-{number}"
        for _ in range(kills):
            process = in_a_process(main, again(folder))
            process.join(moments.uniform(0.05 * longest, longest))
            process.kill()
            process.join()
            landed += process.exitcode == -signal.SIGKILL
            if (folder / "summary.json").exists():
                break
        else:
            assert main(again(folder)) == 0

        assert_same_run(tmp_path / "whole", folder)
    assert landed > 0.7 * runs  # those that came too late are no test


@pytest.mark.parametrize("settings", ["kept", "lost", "damaged"])
def test_a_comparison_goes_on_from_the_checkpoint(settings: str, tmp_path: Path) -> None:
    overrides = (*SETTINGS, *read_variants()["fednas"].settings)
    run_to_the_end(tmp_path / "whole", *overrides)
    folder = tmp_path / "comparison" / "fednas" / "seed-0"
    folder.parent.mkdir(parents=True)
    run_until(3, folder, *overrides)
    before = (folder / "metrics.jsonl").read_text().splitlines()
    if settings == "lost":
        (folder / "settings.yaml").unlink()
    if settings == "damaged":
        (folder / "settings.yaml").write_text("rounds: [")

    arguments = ["--strategies", "fednas", "--seeds", "0", "--engine", "inline"]
    file = experiment_file(tmp_path, *SETTINGS, "rounds=2")  # the variant has twice as many
    assert main(["compare", file, *arguments, "--out", str(tmp_path / "comparison")]) == 0

    assert_same_run(tmp_path / "whole", folder)
    after = (folder / "metrics.jsonl").read_text().splitlines()
    assert after[:3] == before  # with their times: they were not done again


def test_code_that_is_run_without_being_installed_has_no_version(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def version(name: str) -> str:
        if name == "fedmetanas":
            raise PackageNotFoundError(name)
        return "1.2"

    monkeypatch.setattr(checkpoint, "version", version)

    versions = checkpoint.versions()

    assert versions.pop("python")
    assert versions.pop("fedmetanas") == "not installed"
    assert set(versions.values()) == {"1.2"}


# How many


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


@pytest.mark.parametrize(
    ("settings", "rounds"),
    [
        ((), [3, 4]),
        (("checkpoint.keep=3",), [2, 3, 4]),
        (("checkpoint.every=3", "checkpoint.keep=9"), [3, 4]),
        (("checkpoint.every=2", "checkpoint.keep=1"), [4]),
    ],
)
def test_the_last_ones_are_kept(
    settings: tuple[str, ...], rounds: list[int], tmp_path: Path
) -> None:
    run_until(4, tmp_path / "run", *SETTINGS, *settings)

    assert names(tmp_path / "run") == [f"round-{n:05}.safetensors" for n in rounds]


def test_a_damaged_one_is_not_kept_in_the_place_of_a_sound_one(tmp_path: Path) -> None:
    run_until(3, tmp_path / "run", *SETTINGS, "checkpoint.keep=3")
    for number in (2, 3):
        path = tmp_path / "run" / "checkpoints" / f"round-0000{number}.safetensors"
        path.write_bytes(path.read_bytes()[:-9])

    again = checkpoint.read(tmp_path / "run" / "checkpoints" / "round-00001.safetensors")
    checkpoint.write(tmp_path / "run", again, keep=1)

    assert names(tmp_path / "run") == ["round-00001.safetensors"]


def test_rounds_of_more_digits_are_newer(tmp_path: Path) -> None:
    run_until(2, tmp_path / "run", *SETTINGS)
    path = tmp_path / "run" / "checkpoints" / "round-00002.safetensors"
    for number in (99_999, 100_000, 100_001):
        checkpoint.write(tmp_path / "run", replace(checkpoint.read(path), round=number), keep=2)
        path = path.with_name(f"round-{number:05}.safetensors")
        if number == 100_000:
            assert names(tmp_path / "run") == [
                "round-100000.safetensors",
                "round-99999.safetensors",
            ]

    assert names(tmp_path / "run") == ["round-100000.safetensors", "round-100001.safetensors"]


def test_none_is_written_if_none_is_asked_for(tmp_path: Path) -> None:
    run_until(2, tmp_path / "run", *SETTINGS, "checkpoint.every=0")

    assert not (tmp_path / "run" / "checkpoints").exists()


# Damaged


def damaged(content: bytes, seed: int) -> bytes:
    """Return a file's content with some of it changed: cut off, flipped, zeroed or repeated."""
    source = random.Random(seed)
    # Half of the damage is done to the header, which is a small part of the file.
    end = len(content) if source.random() < 0.5 else min(len(content), 3000)
    place = source.randrange(end)
    kind = source.choice(["cut", "flip", "zero", "insert"])
    if kind == "cut":
        return content[:place]
    if kind == "flip":
        return (
            content[:place]
            + bytes([content[place] ^ 1 << source.randrange(8)])
            + content[place + 1 :]
        )
    if kind == "zero":
        length = source.randrange(1, 200)
        return (
            content[:place] + bytes(min(length, len(content) - place)) + content[place + length :]
        )
    return content[:place] + source.randbytes(source.randrange(1, 50)) + content[place:]


def assert_refused_or_the_same(path: Path, seeds: range) -> None:
    """Damage a checkpoint, in another way with each seed; none may be read as anything else."""
    content = path.read_bytes()
    arrays: dict[str, Any] = {}
    whole = pack(vars(checkpoint.read(path)), arrays)
    refused = 0
    for seed in seeds:
        path.write_bytes(damaged(content, seed))
        try:
            found = checkpoint.read(path)
        except CheckpointError as error:
            refused += len(str(error).splitlines()) == 1
            continue
        again: dict[str, Any] = {}
        assert pack(vars(found), again) == whole
        assert all(arrays[key].tobytes() == again[key].tobytes() for key in arrays)
    assert refused > 0.9 * len(seeds)


@pytest.mark.parametrize("damages", [100, pytest.param(1000, marks=pytest.mark.soak)])
def test_a_damaged_checkpoint_is_never_read_as_another(damages: int, tmp_path: Path) -> None:
    run_until(2, tmp_path / "run", *SETTINGS)

    assert_refused_or_the_same(
        tmp_path / "run" / "checkpoints" / "round-00002.safetensors", range(damages)
    )


def test_the_one_before_a_damaged_one_is_taken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_to_the_end(tmp_path / "whole", *SETTINGS)
    run_until(3, tmp_path / "run", *SETTINGS)
    path = tmp_path / "run" / "checkpoints" / "round-00003.safetensors"
    path.write_bytes(damaged(path.read_bytes(), 0))

    assert resume(tmp_path / "run") == 0

    assert f"{path} is damaged" in capsys.readouterr().out
    assert_same_run(tmp_path / "whole", tmp_path / "run")


def test_the_one_before_an_unreadable_one_is_taken(tmp_path: Path) -> None:
    run_to_the_end(tmp_path / "whole", *SETTINGS)
    run_until(3, tmp_path / "run", *SETTINGS)
    path = tmp_path / "run" / "checkpoints" / "round-00003.safetensors"
    path.unlink()
    path.symlink_to("/no/such/file")

    assert resume(tmp_path / "run") == 0

    assert_same_run(tmp_path / "whole", tmp_path / "run")


def test_checkpoints_are_told_by_their_names_and_the_rounds_in_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_to_the_end(tmp_path / "whole", *SETTINGS)
    run_until(2, tmp_path / "run", *SETTINGS, "checkpoint.keep=1")
    folder = tmp_path / "run" / "checkpoints"
    (newest,) = folder.iterdir()
    shutil.copy(newest, folder / "round-00003.safetensors")
    shutil.copy(newest, folder / "round-00002-mine.safetensors")

    assert resume(tmp_path / "run") == 0

    said = capsys.readouterr().out
    assert "round-00003.safetensors is not of the round in its name, but of 2" in said
    assert_same_run(tmp_path / "whole", tmp_path / "run")


def test_another_version_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_until(2, tmp_path / "run", *SETTINGS)
    path = tmp_path / "run" / "checkpoints" / "round-00002.safetensors"
    older = {**checkpoint.versions(), "torch": "1.0"}
    checkpoint.write(tmp_path / "run", replace(checkpoint.read(path), versions=older), keep=2)

    assert resume(tmp_path / "run") == 0

    said = f"{path} was written with torch 1.0; now it is {checkpoint.versions()['torch']}"
    assert said in capsys.readouterr().out


def test_the_server_app_does_not_begin_a_completed_run_anew(tmp_path: Path) -> None:
    run_to_the_end(tmp_path / "run", *SETTINGS)
    before = files_of(tmp_path)
    settings = run_folder.read_settings(tmp_path / "run")
    run_config = {"settings": settings.to_yaml(), "out": str(tmp_path / "run"), "resume": True}

    with pytest.raises(SettingsError, match="has completed"):
        run_inline(settings, run_config)

    assert files_of(tmp_path) == before


# Refused


def test_a_run_does_not_go_on_with_other_images(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for part in ("train", "test"):
        for name in ("cat", "dog"):
            (tmp_path / "images" / part / name).mkdir(parents=True)
            for number in range(12):
                pixels = np.random.default_rng(number).integers(0, 256, (8, 8), np.uint8)
                path = tmp_path / "images" / part / name / f"{number}.png"
                Image.fromarray(pixels).save(path)
    data = ("data.dataset=imagefolder", f"data.root={tmp_path / 'images'}", "data.partition=iid")
    run_until(2, tmp_path / "run", *SETTINGS, *data, "data.min_client_size=3")
    before = files_of(tmp_path / "run")
    Image.fromarray(255 - pixels).save(path)

    assert resume(tmp_path / "run") == 2

    assert "data: " in (said := capsys.readouterr().err)
    assert "was written with other images" in said
    assert files_of(tmp_path / "run") == before


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize(
    ("change", "arguments", "words"),
    [
        ("", ["client.outer_lr=0.05"], ["client.outer_lr was 0.1, now 0.05"]),
        ("", ["seed=1", "search.nodes=2"], ["search.nodes was 1, now 2", "seed was 0, now 1"]),
        ("", ["strategy.name=fednas"], ["strategy.name was 'fedmetanas', now 'fednas'"]),
        ("", ["rounds=1"], ["rounds: 2 are done already", "at least 2", "found 1"]),
        ("no folder", [], ["settings.yaml", "No such file"]),
        ("no settings", [], ["settings.yaml", "No such file"]),
        ("broken settings", [], ["settings.yaml", "not valid YAML"]),
        ("flipped settings", [], ["client.outer_lr was 0.1, now 0.3"]),
        ("completed", [], ["has completed"]),
        ("damaged summary", [], ["summary.json is damaged"]),
        ("all damaged", [], ["no checkpoint is sound", "start a new run"]),
        ("checkpoints are a file", [], ["cannot read", "checkpoints", "Not a directory"]),
        ("no metrics", [], ["cannot read", "metrics.jsonl", "start a new run"]),
        ("fewer metrics", ["rounds=9"], ["metrics.jsonl has lost lines", "start a new run"]),
        ("other metrics", [], ["metrics.jsonl has lost lines", "or holds others"]),
        ("a network", [], ["holds a network but no checkpoint", "start a new run"]),
        ("another format", [], ["format '99'"]),
    ],
)
def test_what_cannot_go_on_is_refused_in_one_line(
    change: str,
    arguments: list[str],
    words: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "run"
    run_until(2, folder, *SETTINGS)
    files = list((folder / "checkpoints").iterdir())
    if change == "no folder":
        folder = tmp_path / "nowhere"
    if change == "no settings":
        (folder / "settings.yaml").unlink()
    if change == "broken settings":
        (folder / "settings.yaml").write_text("rounds: [")
    if change in ("no settings", "broken settings"):
        for path in files:
            path.write_bytes(path.read_bytes()[:-9])
    if change == "flipped settings":
        text = (folder / "settings.yaml").read_text()
        assert text.count("outer_lr: 0.1\n") == 1
        (folder / "settings.yaml").write_text(text.replace("outer_lr: 0.1\n", "outer_lr: 0.3\n"))
    if change == "completed":
        summary = {"rounds": 2, "test_accuracy": 0.5, "algorithm_seconds": {"total": 1.0}}
        (folder / "summary.json").write_text(json.dumps(summary))
    if change == "damaged summary":
        (folder / "summary.json").write_text('{"test_accuracy": 0.9')
    metrics = folder / "metrics.jsonl"
    if change == "no metrics":
        metrics.unlink()
    if change == "fewer metrics":
        metrics.write_bytes(metrics.read_bytes().splitlines(keepends=True)[0])
    if change == "other metrics":
        metrics.write_bytes(b'{"round": 1}\n{"round": 3}\n')
    if change in ("a network", "checkpoints are a file"):
        shutil.rmtree(folder / "checkpoints")
        (folder / ("weights.safetensors" if change == "a network" else "checkpoints")).touch()
    if change == "all damaged":
        for path in files:
            path.write_bytes(path.read_bytes()[:-9])
    if change == "another format":
        for path in files:
            content = path.read_bytes()
            assert b'"format":"2"' in content
            path.write_bytes(
                (int.from_bytes(content[:8], "little") + 1).to_bytes(8, "little")
                + content[8:].replace(b'"format":"2"', b'"format":"99"', 1)
            )
    before = files_of(tmp_path)

    assert resume(folder, *arguments) == 2

    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1, said
    assert all(word in said for word in words), said
    assert files_of(tmp_path) == before


@pytest.mark.parametrize("text", [None, "rounds: [", "rounds: many", "\0"])
def test_settings_that_are_lost_are_taken_from_the_checkpoint(
    text: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_to_the_end(tmp_path / "whole", *SETTINGS)
    folder = tmp_path / "run"
    run_until(2, folder, *SETTINGS)
    if text is None:
        (folder / "settings.yaml").unlink()
    else:
        (folder / "settings.yaml").write_text(text)

    assert resume(folder) == 0

    said = capsys.readouterr().out
    assert "settings.yaml" in said
    assert "its settings are taken from" in said
    assert "round-00002.safetensors" in said
    assert_same_run(tmp_path / "whole", folder)


def test_rounds_workers_and_checkpoints_may_change(tmp_path: Path) -> None:
    run_until(2, tmp_path / "run", *SETTINGS)

    assert resume(tmp_path / "run", "rounds=5", "engine.workers=1", "checkpoint.keep=1") == 0

    assert [line["round"] for line in metrics_of(tmp_path / "run")] == [1, 2, 3, 4, 5]
    assert run_folder.read_settings(tmp_path / "run").rounds == 5


def test_fednas_with_more_rounds_retrains_longer(tmp_path: Path) -> None:
    """The phases are those planned at the start; a derived network is not searched again."""
    run_until(3, tmp_path / "run", *SETTINGS, "strategy.name=fednas")

    assert resume(tmp_path / "run", "rounds=8") == 0

    phases = [line["phase"] for line in metrics_of(tmp_path / "run")]
    assert phases == ["search"] * 2 + ["training"] * 6


def test_a_folder_is_one_runs_at_a_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_until(1, tmp_path / "run", *SETTINGS)
    process = in_a_process(resume, tmp_path / "run", "rounds=1000")
    while len((tmp_path / "run" / "metrics.jsonl").read_bytes().splitlines()) < 3:
        assert process.is_alive()
        time.sleep(0.01)

    status = resume(tmp_path / "run", "rounds=1000")

    assert process.is_alive()
    process.kill()
    process.join()
    assert status == 2
    assert "another run is at work" in capsys.readouterr().err


def test_a_disk_without_locks_is_named_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_locks(handle: int, operation: int) -> None:  # as network file systems answer
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", no_locks)

    status = main(["run", "digits", "--engine", "inline", "--out", str(tmp_path / "run")])

    assert status == 2
    assert capsys.readouterr().err == (
        f"fedmetanas: out: cannot lock {tmp_path / 'run'}: No locks available; "
        "choose a folder on another disk\n"
    )
    assert list((tmp_path / "run").iterdir()) == []


def test_a_full_disk_ends_the_run_in_a_line_and_keeps_the_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_to_the_end(tmp_path / "whole", *SETTINGS)
    folder = tmp_path / "run"
    run_until(2, folder, *SETTINGS)
    draft = folder / "checkpoints" / "round-00003.safetensors.part"
    draft.symlink_to("/dev/full")

    assert resume(folder) == 2

    said = capsys.readouterr().err.splitlines()
    assert "round-00003.safetensors: No space left on device" in said[0]
    assert f"fedmetanas run --resume {folder}" in said[1]
    assert len(said) == 2
    assert names(folder) == ["round-00001.safetensors", "round-00002.safetensors"]
    assert resume(folder) == 0
    assert_same_run(tmp_path / "whole", folder)


# What a strategy remembers


def write_strategy(folder: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> str:
    """Write a module with a strategy, where it can be imported; return the module's name."""
    name = f"strategy_of_{folder.name}"  # no test imports another's
    head = "import numpy as np\nfrom fedmetanas.strategies.fedmetanas import FedMetaNAS\n\n\n"
    (folder / f"{name}.py").write_text(head + text)
    monkeypatch.syspath_prepend(folder)
    return name


def test_a_strategy_that_remembers_what_cannot_be_saved_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    drawing = write_strategy(
        tmp_path,
        monkeypatch,
        "class Drawing(FedMetaNAS):\n"
        "    def __init__(self, plan):\n"
        "        super().__init__(plan)\n"
        "        self.source = np.random.default_rng(0)\n",
    )
    arguments = ["run", experiment_file(tmp_path), f"strategy.name={drawing}:Drawing"]
    arguments += ["--engine", "inline", "--out", str(tmp_path / "run")]

    assert main(arguments) == 2

    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1
    assert all(word in said for word in ("Drawing.source", "Generator", "checkpoint.every=0"))
    assert not (tmp_path / "run").exists()
    assert main([*arguments, "checkpoint.every=0", "rounds=1"]) == 0


def test_what_a_strategy_first_remembers_in_a_round_ends_the_run_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    late = write_strategy(
        tmp_path,
        monkeypatch,
        "class Late(FedMetaNAS):\n"
        "    def prune(self, server_round, arrays):\n"
        "        self.source = np.random.default_rng(0)\n",
    )
    arguments = ["run", experiment_file(tmp_path), f"strategy.name={late}:Late"]

    assert main([*arguments, "--engine", "inline", "--out", str(tmp_path / "run")]) == 1

    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith("fedmetanas: strategy.name: Late.source: ")
    assert "checkpoint.every=0" in said[0]
    assert len(said) == 2


def test_a_strategys_own_counter_is_remembered() -> None:
    class Counting(FedAvg):
        def __init__(self) -> None:
            super().__init__()
            self.rounds = {1: "first", 2: 0.5}
            self.seen = (np.float64(0.1), [True, None])

    state = state_of(Counting())

    assert state["rounds"] == {1: "first", 2: 0.5}
    assert "train_metrics_aggr_fn" not in state


def test_masks_tensors_and_records_come_back_as_they_were() -> None:
    mask = Mask.full(Topology(2, ("skip_connect", "none")))
    values = {"w": np.arange(6, dtype=np.float64).reshape(2, 3), "b": np.float32(2.5).reshape(())}
    arrays: dict[str, Any] = {}

    tree = json.loads(json.dumps(pack([mask, torch.ones(2), wire.to_record(values)], arrays)))
    again, tensor, record = unpack(tree, arrays)

    assert isinstance(again, Mask)
    assert all(a.equal(b) for a, b in zip(again.tensors(), mask.tensors(), strict=True))
    assert tensor.equal(torch.ones(2))
    assert isinstance(record, ArrayRecord)
    assert list(record) == ["w", "b"]
    assert record["w"].numpy().tobytes() == values["w"].tobytes()
    assert record["b"].shape == ()


NUMBERS = any_array(
    st.sampled_from(["float32", "float64", "int64", "bool", "uint8"]),
    st.just((2, 0)) | st.just((3,)),
)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | NUMBERS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(st.integers() | st.text(), inner, max_size=4)
    ),
    max_leaves=12,
)


def same(first: Any, second: Any) -> bool:
    if isinstance(first, np.ndarray):
        return (first.dtype, first.shape) == (second.dtype, second.shape) and (
            first.tobytes() == second.tobytes()
        )
    if isinstance(first, dict):
        return list(first) == list(second) and all(same(first[k], second[k]) for k in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    return bool(first == second) or (first != first and second != second)


@given(PLAIN)
def test_whatever_is_packed_comes_back(value: Any) -> None:
    arrays: dict[str, Any] = {}

    written = json.dumps(pack(value, arrays), allow_nan=False)
    again = unpack(json.loads(written), arrays)

    assert type(again) is type(value)
    assert same(value, again)


@pytest.mark.parametrize(
    "value",
    [
        *(object(), {1, 2}, np.array([object()]), np.array(["a"]), 1j),
        *(OrderedDict(a=1), defaultdict(int), Alphas.equal(Topology(1, ("none",)))),
    ],
)
def test_what_cannot_be_written_down_is_refused(value: Any) -> None:
    with pytest.raises(StateError, match=type(value).__name__):
        pack([value], {})


def test_a_checkpoint_is_read_as_it_was_written(tmp_path: Path) -> None:
    column_first = np.arange(6, dtype=np.float32).reshape(3, 2).T
    arrays = {"weights/b": column_first, "alphas/a": np.zeros(0)}
    written = Checkpoint(
        7, arrays, {"mask": None}, {"seconds": 1.5}, "rounds: 3", "ab12", {"torch": "2"}
    )

    checkpoint.write(tmp_path, written, keep=1)
    found = checkpoint.read(tmp_path / "checkpoints" / "round-00007.safetensors")

    assert list(found.arrays) == ["weights/b", "alphas/a"]
    assert all(same(arrays[key], found.arrays[key]) for key in arrays)
    assert (found.round, found.strategy, found.totals) == (7, {"mask": None}, {"seconds": 1.5})
    assert (found.settings, found.versions) == ("rounds: 3", {"torch": "2"})


def test_settings_that_differ_are_named(tmp_path: Path) -> None:
    saved, wanted = tiny.settings_of("strategy.options={a: 1}"), tiny.settings_of("rounds=9")

    with pytest.raises(SettingsError, match=r"strategy\.options\.a was 1, now None$"):
        checkpoint.refuse_other_settings(saved, wanted, tmp_path)
