"""Real clients: a SuperLink and SuperNodes, whose connections break."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from test_run import BIN, ROOT, left_over

pytestmark = pytest.mark.soak

SETTINGS = (
    *("clients=2", "rounds=3", "held_out_clients=0", "evaluation.every=9", "engine.timeout=45"),
    *("search.channels=4", "search.layers=2", "search.nodes=1", "client.episodes=1"),
)


class Machines:
    """A SuperLink and SuperNodes, each a group of processes."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder, self.environment = folder, environment
        self.port = free_port()
        self.groups: list[subprocess.Popen[bytes]] = []
        (folder / "config.toml").write_text(
            f'[superlink.machines]\naddress = "127.0.0.1:{self.port}"\ninsecure = true\n'
        )
        self.superlink()

    def superlink(self) -> subprocess.Popen[bytes]:
        database = ("--database", str(self.folder / "link.db"))
        return self.start("flower-superlink", "--insecure", "--port", str(self.port), *database)

    def start(
        self, program: str, *arguments: str, env: dict[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        command = [str(BIN / program), *arguments]
        with (self.folder / f"log-{len(self.groups)}").open("wb") as log:
            started = subprocess.Popen(
                command, env=env or self.environment, stdout=log, stderr=log, start_new_session=True
            )
        self.groups.append(started)
        return started

    def node(self) -> subprocess.Popen[bytes]:
        server = ("--insecure", "--superlink", f"127.0.0.1:{self.port}")
        own = ("--port", str(free_port()), "--node-config", f'data-path="{self.folder}"')
        return self.start("flower-supernode", *server, *own)

    def run(self, out: Path) -> subprocess.Popen[bytes]:
        overrides = " ".join(SETTINGS)
        config = f'experiment="digits" overrides="{overrides}" out="{out}"'
        return self.start("flwr", "run", str(ROOT), "machines", "--stream", "--run-config", config)

    def end(self) -> None:
        for group in reversed(self.groups):
            kill(group)


def kill(group: subprocess.Popen[bytes]) -> None:
    """Kill a program and all that it has started: its connections are closed, and nothing said."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group.pid, signal.SIGKILL)
    group.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environment_in(folder: Path) -> dict[str, str]:
    """Return the environment of programs that keep all they have in a folder."""
    return {
        **os.environ,
        "FLWR_HOME": str(folder),
        "XDG_CACHE_HOME": str(folder / "cache"),
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
        "RUN_OF_THE_TEST": str(folder),
    }


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[Machines]:
    environment = environment_in(tmp_path)
    started = Machines(tmp_path, environment)
    yield started
    started.end()
    assert left_over(str(tmp_path)) == []


def rounds(out: Path) -> list[dict[str, object]]:
    path = out / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def wait_for(done: Callable[[], object], what: str, seconds: float = 240.0) -> None:
    started = time.monotonic()
    while not done():
        assert time.monotonic() < started + seconds, what
        time.sleep(0.2)


def test_a_run_goes_on_when_a_machine_is_gone(machines: Machines, tmp_path: Path) -> None:
    out = tmp_path / "out"
    machines.node()
    lost = machines.node()
    machines.run(out)
    wait_for(lambda: rounds(out), "the first round")

    kill(lost)

    wait_for(lambda: (out / "summary.json").exists(), "the end of the run", 400)
    assert [line["round"] for line in rounds(out)] == [1, 2, 3]
    assert rounds(out)[0]["left_out"] == []
    for line in rounds(out):
        for left in line["left_out"]:  # type: ignore[attr-defined]
            assert "no reply" in left["reason"]
