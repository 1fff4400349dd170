"""What is around a run: the process it runs in, the environment, the console, another's Ray."""

import gc
import io
import json
import logging
import os
import random
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from test_clash import NAMES, put_other_code
from test_run import TINY, assert_same_result, environment, inline  # noqa: F401
from test_run import fedmetanas as command

from fedmetanas.errors import SettingsError
from fedmetanas.experiments import console, run
from fedmetanas.experiments.engines.ray import check_temporary_folder
from fedmetanas.experiments.settings import Settings

# A run leaves its process as it was


def state() -> dict[str, Any]:
    """All that a person would miss."""
    loggers = [logging.getLogger(name) for name in ("", "flwr", "of.somebody")]
    return {
        "threads": torch.get_num_threads(),
        "frozen": gc.get_freeze_count(),
        "random": (random.getstate(), torch.get_rng_state().tolist()),
        "numpy": str(np.random.get_state()),  # noqa: NPY002
        "loggers": [(lg.level, list(lg.handlers), lg.propagate, lg.disabled) for lg in loggers],
        "signals": [signal.getsignal(number) for number in sorted(signal.valid_signals())],
        "environment": dict(os.environ),
        "path": list(sys.path),
        "folder": os.getcwd(),
    }


def wreck() -> None:
    """Change all of it."""
    torch.set_num_threads(2)
    gc.freeze()
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    torch.manual_seed(1)
    for name in ("", "flwr", "of.somebody"):
        logger = logging.getLogger(name)
        logger.setLevel(logging.CRITICAL)
        logger.addHandler(logging.NullHandler())
        logger.propagate, logger.disabled = False, True
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["ADDED"] = os.environ["CHANGED"] = "here"
    del os.environ["REMOVED"]
    sys.path.insert(0, "/nowhere")
    os.chdir("/")


@pytest.fixture
def threads() -> Iterator[None]:
    """Threads of PyTorch that a person has set, and nothing frozen."""
    before = torch.get_num_threads()
    gc.unfreeze()
    torch.set_num_threads(3)
    yield
    gc.unfreeze()
    torch.set_num_threads(before)


@pytest.mark.parametrize("ends", ["in good order", "by a fault", "by Ctrl-C"])
def test_whatever_a_run_changes_is_put_back(
    ends: str, threads: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def engine(settings: Settings, run_config: dict[str, Any]) -> None:
        wreck()
        if ends == "by a fault":
            raise ZeroDivisionError
        if ends == "by Ctrl-C":
            raise KeyboardInterrupt

    monkeypatch.setitem(run.ENGINES, "inline", engine)
    monkeypatch.setenv("REMOVED", "1")
    monkeypatch.setenv("CHANGED", "1")
    before = state()

    if ends == "in good order":
        assert run.run(tiny.settings_of(), "inline", str(tmp_path / "out")) == 1  # no summary
    else:
        with pytest.raises((ZeroDivisionError, KeyboardInterrupt)):
            run.run(tiny.settings_of(), "inline", str(tmp_path / "out"))

    assert state() == before
    assert before["threads"] == 3


def test_a_run_of_the_inline_engine_computes_in_one_thread_and_leaves_all_as_it_was(
    threads: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    inline_engine = run.ENGINES["inline"]

    def engine(settings: Settings, run_config: dict[str, Any]) -> None:
        inline_engine(settings, run_config)
        seen.append((torch.get_num_threads(), gc.get_freeze_count() > 0))

    monkeypatch.setitem(run.ENGINES, "inline", engine)
    before = state()

    assert run.run(tiny.settings_of("rounds=1"), "inline", str(tmp_path / "out")) == 0

    assert seen == [(1, True)]
    assert state() == before


def test_what_a_person_has_frozen_stays_frozen(threads: None, tmp_path: Path) -> None:
    gc.freeze()
    frozen = gc.get_freeze_count()

    run.run(tiny.settings_of("rounds=1"), "inline", str(tmp_path / "out"))

    assert 0 < gc.get_freeze_count() <= frozen  # some of it may have been thrown away since


def test_a_run_in_another_thread_leaves_signals_to_the_main_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    running, over = threading.Event(), threading.Event()

    def engine(settings: Settings, run_config: dict[str, Any]) -> None:
        running.set()
        over.wait(60)

    monkeypatch.setitem(run.ENGINES, "inline", engine)
    codes = []

    def go() -> None:
        codes.append(run.run(tiny.settings_of(), "inline", str(tmp_path / "out")))

    thread = threading.Thread(target=go)
    thread.start()
    assert running.wait(60)
    before = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    over.set()
    thread.join()

    assert codes == [1]  # it has left no summary
    assert signal.signal(signal.SIGUSR1, before) == signal.SIG_IGN


@pytest.mark.parametrize("begun", [True, False])
def test_who_stops_a_run_is_told_how_to_go_on(
    begun: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def engine(settings: Settings, run_config: dict[str, Any]) -> None:
        if begun:
            (out / "settings.yaml").write_text(settings.to_yaml())
        raise KeyboardInterrupt

    monkeypatch.setitem(run.ENGINES, "inline", engine)
    out = tmp_path / "of mine"

    with pytest.raises(KeyboardInterrupt) as stopped:
        run.run(tiny.settings_of(), "inline", str(out))

    go_on = f"stopped; go on with: fedmetanas run --resume '{out}'"
    assert str(stopped.value) == (go_on if begun else "stopped before it began")


# The console


def test_characters_that_a_console_lacks_are_question_marks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written = io.BytesIO()
    stream = io.TextIOWrapper(written, encoding="latin-1", errors="strict")
    monkeypatch.setattr(sys, "stdout", stream)

    undo = console.show_what_can_be_shown()
    console.say("± é 結果")

    assert written.getvalue() == "± é ??\n".encode("latin-1")
    undo()
    assert stream.errors == "strict"


def test_errors_of_usage_are_shown_on_any_console(
    environment: dict[str, str],  # noqa: F811
    tmp_path: Path,
) -> None:
    plain = {**environment, "PYTHONIOENCODING": "ascii:strict"}

    done = command("run", "digits", "--é結", environment=plain, cwd=tmp_path)

    assert done.returncode == 2
    assert "--??" in done.stderr
    assert "Traceback" not in done.stderr


# The environment


@pytest.mark.parametrize("name", ["t é", "t'q", "t\\q", "結"])
def test_a_temporary_folder_that_ray_cannot_read_is_named(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", f"/tmp/{name}")

    with pytest.raises(SettingsError, match="TMPDIR") as refused:
        run.run(tiny.settings_of(), "ray", str(tmp_path / "out"))

    assert f"found /tmp/{name};" in str(refused.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["t t", "t$q", 't"q', "t;q", "t&q"])
def test_a_temporary_folder_that_ray_can_read_is_taken(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", f"/tmp/{name}")

    check_temporary_folder()


NOBODY = """
    import pwd, sys

    def unknown(uid):
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    pwd.getpwuid = unknown
"""


def of_nobody(
    program: str, *arguments: str, variables: dict[str, str], cwd: Path
) -> "subprocess.CompletedProcess[str]":
    """Run a program as a user who has no home folder."""
    homeless = {k: v for k, v in variables.items() if k not in ("HOME", "FLWR_HOME")}
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(NOBODY) + textwrap.dedent(program), *arguments],
        env=homeless,
        cwd=cwd,
        text=True,
        capture_output=True,
        timeout=300,
    )


def test_without_a_home_folder_one_line_says_what_to_set(
    environment: dict[str, str],  # noqa: F811
    tmp_path: Path,
) -> None:
    no_cache = {k: v for k, v in environment.items() if k != "XDG_CACHE_HOME"}
    program = "from fedmetanas.experiments.entry import main\nmain()"

    done = of_nobody(program, "run", "digits", *TINY.split(), variables=no_cache, cwd=tmp_path)

    assert done.returncode == 2
    assert done.stderr == (
        "fedmetanas: the home folder is unknown; set HOME, or data.cache, to a folder of yours\n"
    )


# Another's Ray, and a process of somebody's own, in which Ray runs twice

PROGRAM = """
    import warnings
    warnings.simplefilter("ignore")
    import json, logging, os, signal, sys, threading
    import ray
    import torch
    from fedmetanas.experiments.run import run
    from fedmetanas.experiments.settings import load

    settings = load("digits", sys.argv[1:])
    torch.set_num_threads(2)
    logging.getLogger("ray").setLevel(logging.INFO)
    loggers = [logging.getLogger(name) for name in ("", "flwr", "ray")]

    def state():
        return [
            torch.get_num_threads(),
            [(one.level, list(map(str, one.handlers)), one.propagate) for one in loggers],
            [str(signal.getsignal(number)) for number in sorted(signal.valid_signals())],
            dict(os.environ),
            list(sys.path),
            os.getcwd(),
        ]

    before = state()
    codes = [run(settings, "ray", "first")]
    kept = [state() == before, not ray.is_initialized()]

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    @ray.remote
    def five():
        return 5
    before = state()
    thread = threading.Thread(target=lambda: codes.append(run(settings, "ray", "second")))
    thread.start()
    thread.join()
    kept += [state() == before, ray.is_initialized(), ray.get(five.remote()) == 5]
    ray.shutdown()
    kept.append(not ray.is_initialized())
    print(json.dumps([codes, kept]))
"""


def test_ray_runs_in_any_process_beside_anothers_and_in_any_thread(
    inline: Path,  # noqa: F811
    environment: dict[str, str],  # noqa: F811
    tmp_path: Path,
) -> None:
    done = of_nobody(PROGRAM, *TINY.split(), variables=environment, cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [[0, 0], [True] * 6]
    assert_same_result(inline, tmp_path / "first")
    assert_same_result(inline, tmp_path / "second")


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A short path for temporary files: Ray's sockets lie in it, and theirs have 107 letters."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / "t t"


def test_ray_runs_amid_all_that_may_be_around_it(
    environment: dict[str, str],  # noqa: F811
    tmp_path: Path,
    temporary: Path,
) -> None:
    """Another's cluster exported, a plain console, other code in the current folder."""
    temporary.mkdir()
    put_other_code(tmp_path, "package", (*NAMES, "fedmetanas"))
    for part, label, number in np.ndindex(2, 3, 30):
        folder = tmp_path / "pictures" / ("train", "test")[part] / f"class {label}"
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.full((8, 8), 40 * label + number, np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    around = {
        **environment,
        "RAY_ADDRESS": "127.0.0.1:6399",
        "PYTHONIOENCODING": "ascii",
        "TMPDIR": str(temporary),
    }
    pictures = [
        "data.dataset=imagefolder",
        "data.root=pictures",
        "data.image_size=8",
        "client.batch_size=4",
    ]
    arguments = ["run", "digits", *TINY.split(), *pictures]

    done = command(*arguments, "--out", "é結", environment=around, cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert (tmp_path / "é結" / "summary.json").exists()
    assert f"results: {tmp_path / '??'}" in done.stdout
    assert list(temporary.glob("ray-*")) == []
    lines = (tmp_path / "é結" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["left_out"] for line in lines] == [[], []]
