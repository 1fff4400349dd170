"""The command, a SuperLink and SuperNodes: real ones, on this machine."""

import os
import pty
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder
from machines import write_images
from test_deployment import Machines, environment_in, kill, rounds, wait_for
from test_run import BIN, ROOT, assert_same_result, left_over

from fedmetanas.experiments.commands.main import main

TINY = (
    *("clients=2", "rounds=2", "held_out_clients=0", "evaluation.every=9", "engine.timeout=100"),
    *("search.channels=4", "search.layers=2", "search.nodes=1", "client.episodes=1"),
)
ELSEWHERE = ("--engine", "superlink", "--superlink", "machines")
COMMAND = (str(BIN / "fedmetanas"),)


@pytest.fixture
def superlink(tmp_path: Path) -> Iterator[Machines]:
    """A SuperLink that keeps what it knows in a file."""
    environment = environment_in(tmp_path) | {"FEDMETANAS_RESULTS": str(tmp_path / "results")}
    (tmp_path / "results").mkdir()
    (tmp_path / "here").mkdir()
    started = Machines(tmp_path, environment)
    yield started
    started.end()
    assert left_over(str(tmp_path)) == []


@pytest.fixture
def machines(superlink: Machines) -> Machines:
    """A SuperLink and two SuperNodes with the digits."""
    for _ in range(2):
        superlink.node()
    return superlink


def fedmetanas(
    machines: Machines, *arguments: str, command: tuple[str, ...] = COMMAND
) -> subprocess.Popen[str]:
    """Start the command in a folder where there is nothing."""
    return subprocess.Popen(
        [*command, *arguments],
        env=machines.environment,
        cwd=machines.folder / "here",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def done(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, error = process.communicate(timeout=400)
    return process.returncode, out, error


def there(machines: Machines) -> Path:
    """Return the folder in which the server writes the one run."""
    (folder,) = (machines.folder / "results").iterdir()
    return folder


def simulated(machines: Machines, *more: str) -> Path:
    """Return the results of the same run, simulated."""
    out = machines.folder / "simulated"
    cache = f"data.cache={machines.folder / 'cache'}"
    arguments = ("run", "digits", *TINY, *more, cache, "--engine", "inline", "--out", str(out))
    assert main(list(arguments)) == 0
    return out


def test_sites_have_the_results_of_a_simulation_and_keep_them(superlink: Machines) -> None:
    folder, names = superlink.folder, ("north", "south")
    for seed, name in enumerate(names):
        write_images(folder / "images" / name, seed, {"cat": (6, 2), "dog": (4 + seed, 3)})
        own = folder / f"site-{name}"
        own.mkdir()
        (own / "site.toml").write_text(
            f'name = "{name}"\ndata = "{folder}/images/{name}"\nsuperlink = "127.0.0.1:'
            f'{superlink.port}"\n'
        )
        environment = {k: v for k, v in superlink.environment.items() if k != "FLWR_HOME"}
        superlink.start("fedmetanas", "site", "start", f"{own}/site.toml", env=environment)
    agreed = ("sites=[north, south]", "data.dataset=imagefolder", "data.classes=[cat, dog]")
    agreed += ("data.image_size=8", "data.channels=1", "client.batch_size=4", "engine.wait=100")
    agreed += tuple(setting for setting in TINY if "clients" not in setting)
    out = folder / "out"

    run = fedmetanas(superlink, "run", "digits", *agreed, "rounds=1", *ELSEWHERE, f"--out={out}")
    code, said, error = done(run)

    assert code == 0, error
    assert "north: 10 training and 5 test images" in said
    assert said.splitlines()[-1] == f"results: {out}"
    simulation = ("run", "digits", *agreed, "rounds=1", "--engine", "inline")
    here = folder / "simulated"
    assert main([*simulation, f"data.root={folder}/images", f"--out={here}"]) == 0
    assert_same_result(here, out)
    for name in names:
        (kept,) = (folder / f"site-{name}" / "results").iterdir()
        for file in ("genotype.json", "weights.safetensors"):
            assert (kept / file).read_bytes() == (out / file).read_bytes()


@pytest.mark.soak
def test_a_run_on_machines_has_the_results_of_a_simulation(machines: Machines) -> None:
    out = machines.folder / "out"
    settings = (*TINY, "rounds=1")
    run = fedmetanas(machines, "run", "digits", *settings, *ELSEWHERE, "--out", str(out))
    code, said, error = done(run)

    assert code == 0, error
    assert error == ""
    first, *_, last = said.splitlines()
    assert first.startswith("round 1/1  loss ")
    assert last == f"results: {out}"
    assert "INFO" not in said
    assert_same_result(simulated(machines, "rounds=1"), out)
    assert not list((machines.folder / "here").iterdir())


@pytest.mark.soak
def test_the_same_from_a_wheel_in_an_empty_folder(machines: Machines) -> None:
    site, out = machines.folder / "site", machines.folder / "out"
    (wheel,) = WheelBuilder(str(ROOT)).build(directory=str(machines.folder), versions=["standard"])
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    machines.environment["PYTHONPATH"] = str(site)  # before what is installed
    command = (sys.executable, "-P", "-m", "fedmetanas")
    where = "import fedmetanas; print(fedmetanas.__path__)"
    code, paths, _ = done(fedmetanas(machines, "-c", where, command=(sys.executable, "-P")))
    assert (code, paths) == (0, f"['{site}/fedmetanas']\n")

    arguments = ("run", "digits", *TINY, *ELSEWHERE, "--out", str(out))
    code, _, error = done(fedmetanas(machines, *arguments, command=command))

    assert code == 0, error
    assert_same_result(simulated(machines), out)


@pytest.mark.soak
def test_a_mistake_that_the_server_finds_is_one_line(machines: Machines) -> None:
    run = fedmetanas(machines, "run", "digits", *TINY, "strategy.options={x: 1}", *ELSEWHERE)
    code, said, error = done(run)

    assert (code, said) == (2, "")
    assert error.startswith("fedmetanas: strategy.options: ")
    assert error.count("\n") == 1
    assert not list((machines.folder / "here").rglob("*.json"))


@pytest.mark.soak
def test_detached_by_sigterm_and_at_a_terminal_and_attached_again(machines: Machines) -> None:
    out = machines.folder / "out"
    more = ("rounds=6", "--out", str(out), "--detach")
    code, said, error = done(fedmetanas(machines, "run", "digits", *TINY, *ELSEWHERE, *more))
    assert code == 0, error
    assert f"fedmetanas attach {out}" in said
    wait_for(lambda: list((machines.folder / "results").iterdir()), "the server's folder")

    attached = fedmetanas(machines, "attach", str(out))
    assert attached.stdout is not None
    assert attached.stdout.readline().startswith("round 1/6")
    attached.send_signal(signal.SIGTERM)
    code, _, error = done(attached)
    assert code == 128 + signal.SIGTERM
    assert "the run goes on" in error

    assert "goes on; follow it" in at_a_terminal(machines, out, "\r")
    code, said, error = done(fedmetanas(machines, "attach", str(out)))
    assert code == 0, error
    assert "round 1/6" in said
    assert (out / "summary.json").exists()


@pytest.mark.soak
def test_stopped_at_a_terminal_and_gone_on_with(machines: Machines) -> None:
    out = machines.folder / "out"
    arguments = ("run", "digits", *TINY, *ELSEWHERE, "--out", str(out), "--detach")
    assert done(fedmetanas(machines, *arguments))[0] == 0

    assert "--engine superlink" in at_a_terminal(machines, out, "stop\r")
    goes_on = ("run", "--resume", str(out), "--engine", "superlink")
    wait_for(lambda: done(fedmetanas(machines, *goes_on))[0] == 0, "the end of the run", 300)

    assert_same_result(simulated(machines), out)


def at_a_terminal(machines: Machines, out: Path, answer: str) -> str:
    """Attach at a terminal, interrupt after a line, answer; return all that was shown."""
    process, terminal = pty.fork()
    if process == 0:
        os.chdir(machines.folder / "here")
        os.execve(COMMAND[0], [*COMMAND, "attach", str(out)], machines.environment)
    shown = b""
    sent = [b"\x03", answer.encode()]  # Ctrl-C, then the answer
    for until in (b"round 1/", b"[stop/DETACH] "):
        while until not in shown:
            shown += os.read(terminal, 1000)
        os.write(terminal, sent.pop(0))
    try:
        while read := os.read(terminal, 1000):
            shown += read
    except OSError:  # the process has ended
        pass
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 130
    return shown.decode()


@pytest.mark.soak
def test_a_superlink_that_is_killed_and_the_run_that_goes_on(machines: Machines) -> None:
    out = machines.folder / "out"
    run = fedmetanas(machines, "run", "digits", *TINY, *ELSEWHERE, "--out", str(out))
    wait_for(lambda: list((machines.folder / "results").iterdir()), "the server's folder")
    wait_for(lambda: rounds(there(machines)), "the first round")

    kill(machines.groups[0])
    server = machines.superlink()
    code, _, error = done(run)

    assert code == 1
    assert f"--resume {out} --engine superlink" in error
    assert server.poll() is None
    code, _, error = done(fedmetanas(machines, "run", "--resume", str(out), *ELSEWHERE))
    assert code == 0, error
    assert_same_result(simulated(machines), out)
