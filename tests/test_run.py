"""The commands a person types, each in a process of its own."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers import documented_example
from PIL import Image
from safetensors.torch import load_file

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
TINY = (
    "rounds=2 seed=3 clients=3 held_out_clients=1 search.channels=4 search.layers=2 search.nodes=1 "
    "search.tau_rounds=2 client.episodes=1 client.batch_size=8 evaluation.every=1"
)

LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A cache and Flower home of the tests' own, and no look outside."""
    base = tmp_path_factory.mktemp("home")
    return {
        **os.environ,
        "XDG_CACHE_HOME": str(base / "cache"),
        "FLWR_HOME": str(base / "flwr"),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
    }


def fedmetanas(
    *arguments: str, environment: dict[str, str], cwd: Path
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(BIN / "fedmetanas"), *arguments],
        env=environment,
        cwd=cwd,
        text=True,
        capture_output=True,
        timeout=300,
    )


@pytest.fixture(scope="module")
def inline(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results folder of a tiny run on the inline engine."""
    base = tmp_path_factory.mktemp("inline")
    arguments = ["run", "digits", *TINY.split(), "--engine", "inline", "--out", str(base / "out")]
    done = fedmetanas(*arguments, environment=environment, cwd=base)
    assert done.returncode == 0, done.stderr
    assert f"results: {base / 'out'}" in done.stdout
    assert "round 2/2" in done.stdout
    return base / "out"


def assert_same_result(first: Path, second: Path) -> None:
    """Same genotype, same weights to the last bit, same measurements."""
    assert (first / "genotype.json").read_bytes() == (second / "genotype.json").read_bytes()
    ours, theirs = (load_file(path / "weights.safetensors") for path in (first, second))
    assert ours.keys() == theirs.keys()
    assert all(ours[name].equal(theirs[name]) for name in ours)
    summaries = [json.loads((path / "summary.json").read_text()) for path in (first, second)]
    for summary in summaries:
        del summary["seconds"], summary["algorithm_seconds"]
    assert summaries[0] == summaries[1]


@pytest.mark.parametrize("workers", [1, 2])
def test_ray_gives_the_bits_of_inline_whatever_the_number_of_workers(
    workers: int, inline: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    arguments = ["run", "digits", *TINY.split(), f"engine.workers={workers}"]

    done = fedmetanas(*arguments, "--out", "out", environment=environment, cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    assert_same_result(inline, tmp_path / "out")


def test_a_run_leaves_no_temporary_file(
    environment: dict[str, str], tmp_path: Path, temporary: Path
) -> None:
    arguments = ["run", "digits", *TINY.split(), "--engine", "inline", "--out", "out"]
    elsewhere = {**environment, "TMPDIR": str(temporary)}

    done = fedmetanas(*arguments, environment=elsewhere, cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    assert list(temporary.iterdir()) == []


def test_evaluate_finds_the_accuracy_of_the_run(
    inline: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    done = fedmetanas("evaluate", str(inline), environment=environment, cwd=tmp_path)

    expected = json.loads((inline / "summary.json").read_text())["test_accuracy"]
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"test accuracy {expected:.6f} ")


@pytest.mark.parametrize(("mode", "channels", "classes"), [("RGB", 3, 10), ("L", 1, 11)])
def test_evaluate_refuses_data_that_do_not_fit_the_network(
    mode: str,
    channels: int,
    classes: int,
    inline: Path,
    environment: dict[str, str],
    tmp_path: Path,
) -> None:
    for part, count in (("train", 8), ("test", 1)):
        for name in range(classes):
            folder = tmp_path / "images" / part / f"{name:02}"
            folder.mkdir(parents=True)
            for number in range(count):
                Image.new(mode, (8, 8)).save(folder / f"{number}.png")
    path = shutil.copytree(inline, tmp_path / "run") / "settings.yaml"
    text = path.read_text().replace("dataset: digits", "dataset: imagefolder")
    path.write_text(text.replace("root: data", f"root: {tmp_path}/images"))

    done = fedmetanas("evaluate", "run", environment=environment, cwd=tmp_path)

    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert f"imagefolder has {channels} channels and {classes} classes" in done.stderr
    assert "the network in genotype.json 1 and 10;" in done.stderr


def test_a_run_of_the_settings_it_left_is_the_same_run(
    inline: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    arguments = ["run", str(inline / "settings.yaml"), "--engine", "inline", "--out", "again"]

    done = fedmetanas(*arguments, environment=environment, cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    assert_same_result(inline, tmp_path / "again")


def test_draw_makes_a_picture(inline: Path, environment: dict[str, str], tmp_path: Path) -> None:
    folder = shutil.copytree(inline, tmp_path / "run")

    done = fedmetanas("draw", str(folder), environment=environment, cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    assert (folder / "cells.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "digits", "search.node=3"], ["search.node", "search.nodes"]),
        (["run", "digits", "rounds=many"], ["rounds", "whole number"]),
        (["run", "digit"], ["digit", "digits"]),
        (["run", "digits", "clients_per_round=11"], ["clients_per_round", "clients=10"]),
        (["run", "digits", "strategy.name=fedmeta"], ["strategy.name", "fedmetanas"]),
        (["run", "digits", "strategy.options={eta: 1}"], ["strategy.options", "eta"]),
        (["run", "mnist", "data.root=nowhere"], ["nowhere", "data.download=true"]),
        (["run", "digits", "clients=500"], ["data.min_client_size"]),
        (["run", "digits", "--out", "~no-such-person/x"], ["~no-such-person"]),
        (["run", "--resume", "~no-such-person/x"], ["~no-such-person"]),
        (
            ["run", "digits", "client.batch_size=10000", "search.nodes=20", "search.channels=48"],
            ["client.batch_size", "5,000,000,000"],
        ),
        (["run", "digits", "search.channels=1024"], ["search.channels", "100,000,000"]),
        (["run", "digits", "--engine", "inline", "engine.min_nodes=2"], ["engine.min_nodes"]),
        (["evaluate", "nowhere"], ["nowhere"]),
    ],
)
def test_bad_input_ends_in_one_line_before_anything_starts(
    arguments: list[str], words: list[str], environment: dict[str, str], tmp_path: Path
) -> None:
    done = fedmetanas(*arguments, environment=environment, cwd=tmp_path)

    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert all(word in done.stderr for word in words), done.stderr
    assert not (tmp_path / "results").exists()


def test_earlier_results_are_never_written_over(
    inline: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    before = {path.name: path.read_bytes() for path in inline.iterdir()}

    done = fedmetanas("run", "digits", "--out", str(inline), environment=environment, cwd=tmp_path)

    assert done.returncode == 2
    assert "not empty" in done.stderr
    assert {path.name: path.read_bytes() for path in inline.iterdir()} == before


STRATEGIES = """
    from fedmetanas.strategies.fedmetanas import FedMetaNAS


    class Broken(FedMetaNAS):
        def aggregate_train(self, server_round, replies):
            raise ZeroDivisionError("broken on purpose")
"""


@pytest.mark.parametrize("engine", ["inline", "ray"])
def test_a_run_whose_server_raises_fails_and_shows_why(
    engine: str, environment: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "my_strategies.py").write_text(textwrap.dedent(STRATEGIES))
    environment = {**environment, "PYTHONPATH": str(tmp_path)}
    arguments = ["run", "digits", *TINY.split(), "strategy.name=my_strategies:Broken"]

    done = fedmetanas(*arguments, "--engine", engine, environment=environment, cwd=tmp_path)

    assert done.returncode == 1
    assert "ZeroDivisionError: broken on purpose" in done.stderr


def test_the_documented_strategy_runs(environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "my_strategies.py").write_text(documented_example("class LatePruning"))
    environment = {**environment, "PYTHONPATH": str(tmp_path)}
    arguments = ["run", "digits", *TINY.split(), "search.warmup_rounds=0", "--engine", "inline"]
    name = "strategy.name=my_strategies:LatePruning"

    done = fedmetanas(*arguments, name, "--out", "out", environment=environment, cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    lines = (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["operations_alive"] for line in lines] == [28, 28]


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A short path for temporary files: Ray's sockets lie in it, and theirs have 107 letters."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def test_a_temporary_folder_too_deep_for_the_sockets_of_ray_is_named(
    environment: dict[str, str], tmp_path: Path, temporary: Path
) -> None:
    deep = temporary / ("deep" * 20)
    deep.mkdir()
    elsewhere = {**environment, "TMPDIR": str(deep)}

    done = fedmetanas("run", "digits", *TINY.split(), environment=elsewhere, cwd=tmp_path)

    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert "TMPDIR" in done.stderr
    assert f"found {deep} with {len(str(deep))}" in done.stderr
    assert list(deep.iterdir()) == []
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("engine", ["inline", "ray"])
def test_a_run_listens_to_no_other_machine_and_ctrl_c_ends_all_its_processes(
    engine: str, environment: dict[str, str], tmp_path: Path, temporary: Path
) -> None:
    long_run = [*TINY.split(), "rounds=10000", "evaluation.every=10000"]
    marked = {**environment, "RUN_OF_THE_TEST": str(tmp_path), "TMPDIR": str(temporary)}
    process = subprocess.Popen(
        [str(BIN / "fedmetanas"), "run", "digits", *long_run, "--engine", engine, "--out", "out"],
        env=marked,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # In a background job, as CI may be, SIGINT is ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL) and None,
    )
    assert process.stdout is not None
    while "round 2/" not in process.stdout.readline():
        assert process.poll() is None
    assert listening(str(tmp_path)) <= LOOPBACK
    assert bool(listening(str(tmp_path))) == (engine == "ray")

    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)

    assert process.returncode == 130, errors
    go_on = f"fedmetanas: stopped; go on with: fedmetanas run --resume {tmp_path / 'out'}"
    assert errors.splitlines() == ["", go_on]
    assert "Traceback" not in errors
    assert left_over(str(tmp_path)) == []
    assert list(temporary.iterdir()) == []
    assert not (tmp_path / "out" / "summary.json").exists()
    assert (tmp_path / "out" / "checkpoints").is_dir()


def after_its_first_round(
    arguments: list[str], environment: dict[str, str], folder: Path
) -> "subprocess.Popen[str]":
    """Start a run in a folder and return its process once it has said how round 1 went."""
    process = subprocess.Popen(
        [str(BIN / "fedmetanas"), *arguments],
        env={**environment, "RUN_OF_THE_TEST": str(folder)},
        cwd=folder,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    while "round 1/" not in process.stdout.readline():
        assert process.poll() is None
    return process


@pytest.mark.parametrize(
    ("engine", "another"),
    [("ray", "inline"), pytest.param("inline", "ray", marks=pytest.mark.soak)],
)
def test_a_run_that_was_killed_goes_on_to_the_same_result(
    engine: str, another: str, inline: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    arguments = ["run", "digits", *TINY.split(), "--engine", engine, "--out", "out"]
    process = after_its_first_round(arguments, environment, tmp_path)

    process.kill()
    process.wait()
    assert not (tmp_path / "out" / "summary.json").exists()
    arguments = ["run", "--resume", "out", "--engine", another]
    done = fedmetanas(*arguments, environment=environment, cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    assert "round 1/" not in done.stdout
    assert_same_result(inline, tmp_path / "out")
    # Who is killed cannot clean up: Ray's processes end when they miss the one that started them.
    deadline = time.monotonic() + 90
    while left_over(str(tmp_path)) and time.monotonic() < deadline:
        time.sleep(1)
    assert left_over(str(tmp_path)) == []


def test_a_run_ends_with_the_comparison_that_started_it(
    environment: dict[str, str], tmp_path: Path
) -> None:
    arguments = ["compare", "digits", *TINY.split()[:1], *TINY.split()[2:], "rounds=10000"]
    options = ["--strategies", "fedmetanas", "--seeds", "3", "--engine", "inline", "--out", "out"]
    process = after_its_first_round([*arguments, *options], environment, tmp_path)

    process.kill()
    process.wait()

    assert left_over(str(tmp_path)) == []


@pytest.mark.soak
@pytest.mark.parametrize("seconds", [0.5, 3, 5, 7, 9, 11, 13])
@pytest.mark.parametrize("engine", ["inline", "ray"])
def test_ctrl_c_in_any_phase_leaves_nothing_and_can_go_on(
    engine: str,
    seconds: float,
    inline: Path,
    environment: dict[str, str],
    tmp_path: Path,
    temporary: Path,
) -> None:
    """Imports, Ray's start, rounds, the last measurements and Ray's end take about 15 seconds."""
    arguments = ["run", "digits", *TINY.split()]
    process = subprocess.Popen(
        [str(BIN / "fedmetanas"), *arguments, "--engine", engine, "--out", "out"],
        env={**environment, "RUN_OF_THE_TEST": str(tmp_path), "TMPDIR": str(temporary)},
        cwd=tmp_path,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL) and None,
    )
    time.sleep(seconds)
    os.killpg(process.pid, signal.SIGINT)
    process.wait(timeout=10)

    assert left_over(str(tmp_path)) == []
    assert list(temporary.iterdir()) == []
    if not (tmp_path / "out" / "summary.json").exists():
        begun = (tmp_path / "out" / "settings.yaml").exists()
        where = ["--engine", "inline", "--resume" if begun else "--out", "out"]
        done = fedmetanas(*arguments, *where, environment=environment, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    assert_same_result(inline, tmp_path / "out")


@pytest.mark.soak
def test_two_runs_at_once_do_not_disturb_each_other(
    inline: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    arguments = ["run", "digits", *TINY.split(), "engine.workers=1"]
    processes = [
        subprocess.Popen(
            [str(BIN / "fedmetanas"), *arguments, "--out", name],
            env=environment,
            cwd=tmp_path,
            stdout=subprocess.DEVNULL,
        )
        for name in ("first", "second")
    ]

    assert [process.wait(timeout=300) for process in processes] == [0, 0]
    for name in ("first", "second"):
        assert_same_result(inline, tmp_path / name)


def left_over(mark: str) -> list[str]:
    """Return the command lines of processes with a mark in their environment, after a moment."""
    for _ in range(50):
        found = of_processes(mark, lambda folder: [(folder / "cmdline").read_text()])
        if not found:
            return []
        time.sleep(0.2)
    return [line.replace("\0", " ") for line in found]


def listening(mark: str) -> set[str]:
    """Return the addresses, as Linux writes them, at which such processes accept connections."""
    addresses = {}
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A":  # the state LISTEN
                addresses[f"socket:[{fields[9]}]"] = fields[1].partition(":")[0]
    opened = of_processes(
        mark, lambda folder: [os.readlink(file) for file in (folder / "fd").iterdir()]
    )
    return {addresses[name] for name in opened if name in addresses}


def of_processes(mark: str, read: Callable[[Path], list[str]]) -> list[str]:
    """Return what is read of all processes with a mark in their environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"RUN_OF_THE_TEST={mark}" in (folder / "environ").read_bytes().decode():
                found += read(folder)
        except (OSError, UnicodeDecodeError):
            continue
    return found


def test_flwr_run_gives_the_same_result(
    inline: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    ports = {
        "FLWR_LOCAL_SUPERLINK_HTTP_API_PORT": "39191",
        "FLWR_LOCAL_CONTROL_API_PORT": "39193",
        "RUN_OF_THE_TEST": str(tmp_path),
    }
    out = tmp_path / "out"
    rounds, rest = TINY.partition(" ")[::2]  # the rounds by the name that Flower's examples use
    config = f'experiment="digits" num-server-{rounds} overrides="{rest}" out="{out}"'
    try:
        done = subprocess.run(
            [str(BIN / "flwr"), "run", str(ROOT), "--stream", "--run-config", config],
            env={**environment, **ports},
            cwd=tmp_path,  # neutral: the apps must come from the bundle
            text=True,
            capture_output=True,
            timeout=300,
        )
    finally:
        stop_superlinks(str(tmp_path))

    assert (out / "summary.json").exists(), done.stdout[-2000:] + done.stderr[-2000:]
    assert_same_result(inline, out)


def stop_superlinks(mark: str) -> None:
    """End the SuperLink that `flwr run` has left running."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            ours = f"RUN_OF_THE_TEST={mark}" in (folder / "environ").read_bytes().decode()
            if ours and "superlink" in (folder / "cmdline").read_text():
                os.kill(int(folder.name), signal.SIGTERM)
        except (OSError, UnicodeDecodeError):
            continue
