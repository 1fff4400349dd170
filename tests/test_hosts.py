"""A federation whose server and sites are hosts of their own, with addresses of their own."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
from certificates import Authority, node_key
from machines import AGREED, write_images
from test_deployment import kill, rounds, wait_for
from test_run import BIN, assert_same_result, left_over

from fedmetanas.experiments.results import run_folder

pytestmark = pytest.mark.soak

SITES = {
    "north": {"cat": (60, 15), "dog": (20, 5), "emu": (40, 10)},
    "south": {"cat": (240, 60), "dog": (80, 20)},  # which has no emu
    "west": {"cat": (8, 2), "dog": (12, 3), "emu": (12, 3)},
}
ADDRESSES = {name: f"10.213.7.{number}" for number, name in enumerate(("server", *SITES), start=1)}
ADDRESSES["stranger"] = "10.213.7.9"
PORT = 9092
ROUNDS = 6
CUT = 90  # seconds
PERSON = "anna-smith"  # in the names of all images


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


class Hosts:
    """A host for each name: a network namespace that is wired to a switch in one of its own."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark
        self.own = f"fm{os.getpid()}"
        self.started: list[subprocess.Popen[bytes]] = []
        self._named("add", "switch")
        try:
            ip("-n", f"{self.own}-switch", "link", "add", "switch", "type", "bridge")
            ip("-n", f"{self.own}-switch", "link", "set", "switch", "up")
            for name, address in ADDRESSES.items():
                self._named("add", name)
                end = ("name", "eth0", "netns", f"{self.own}-{name}")
                switch = ("-n", f"{self.own}-switch", "link")
                ip(*switch, "add", name, "type", "veth", "peer", *end)
                ip(*switch, "set", name, "master", "switch", "up")
                ip("-n", f"{self.own}-{name}", "addr", "add", f"{address}/24", "dev", "eth0")
                ip("-n", f"{self.own}-{name}", "link", "set", "lo", "up")
                ip("-n", f"{self.own}-{name}", "link", "set", "eth0", "up")
        except BaseException:
            self.end()
            raise

    def _named(self, action: str, name: str) -> None:
        ip("netns", action, f"{self.own}-{name}")

    def wire(self, name: str, state: str) -> None:
        """Set the cable of a host up or down, at the switch."""
        ip("-n", f"{self.own}-switch", "link", "set", name, state)

    def kill(self, name: str, spared: int = 0) -> None:
        """Kill all that runs at a host but one process, and wait until it is gone."""
        words = ["ip", "netns", "pids", f"{self.own}-{name}"]
        for _ in range(100):
            found = subprocess.run(words, check=True, capture_output=True, text=True).stdout
            if not (left := {int(number) for number in found.split()} - {spared}):
                return
            for number in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(number, signal.SIGKILL)
            for process in self.started:
                process.poll()
            time.sleep(0.1)
        raise AssertionError(f"{name} cannot be killed")

    def home(self, name: str) -> Path:
        home = self.mark / name
        home.mkdir(exist_ok=True)
        return home

    def start(self, host: str, *words: object, **surroundings: object) -> subprocess.Popen[bytes]:
        """Start a program at a host; what it says is added to the file `said` in its home."""
        home = self.home(host)
        own = {"HOME": home, "XDG_CACHE_HOME": home / "cache", "OMP_NUM_THREADS": 1}
        own |= {"RUN_OF_THE_TEST": self.mark, **surroundings}
        with (home / "said").open("ab") as said:
            started = subprocess.Popen(
                ["ip", "netns", "exec", f"{self.own}-{host}", *map(str, words)],
                env={**os.environ, **{key: str(value) for key, value in own.items()}},
                cwd=home,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                start_new_session=True,
            )
        self.started.append(started)
        return started

    def said(self, host: str) -> str:
        return (self.home(host) / "said").read_text()

    def end(self) -> None:
        """End all that runs, and remove what was made of the network."""
        running = [process for process in self.started if process.poll() is None]
        for process in running:
            process.terminate()
        for process in running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(60)
            kill(process)
        for name in ("switch", *ADDRESSES):
            subprocess.run(["ip", "netns", "del", f"{self.own}-{name}"], capture_output=True)


class Federation:
    """A server and three sites, each at its host with its own kit and images alone."""

    def __init__(self, hosts: Hosts) -> None:
        self.hosts = hosts
        self.root = hosts.home("server") / "federation"
        made = ("federation", "init", self.root, "--sites", ",".join(SITES))
        self.at_server("fedmetanas", *made, "--address", ADDRESSES["server"], "--port", PORT)
        self.serve()
        for seed, name in enumerate(SITES):
            shutil.move(self.root / "kits" / name, self.kit(name))
            write_images(self.images(name), seed, SITES[name])
            file = self.kit(name) / "site.toml"
            text = file.read_text().replace("/path/to/the/images", str(self.images(name)))
            file.write_text(text)
            self.play(name)
        for name in SITES:
            wait_for(lambda name=name: "SuperNode ID:" in self.log(name), name)

    def kit(self, name: str) -> Path:
        return self.hosts.home(name) / "kit"

    def images(self, name: str) -> Path:
        return self.hosts.home(name) / "images"

    def log(self, name: str) -> str:
        path = self.kit(name) / "log" / "site.log"
        return path.read_text() if path.exists() else ""

    def serve(self) -> None:
        """Start the server, and wait until it is up."""
        words = "fedmetanas run EXPERIMENT"
        before = self.hosts.said("server").count(words)
        self.hosts.start("server", BIN / "fedmetanas", "federation", "up", self.root)
        wait_for(lambda: self.hosts.said("server").count(words) > before, "the server")

    def play(self, name: str) -> None:
        """Start a site."""
        file = self.kit(name) / "site.toml"
        self.hosts.start(name, BIN / "fedmetanas", "site", "start", file)

    @property
    def surroundings(self) -> dict[str, Path]:
        """What the server says that commands which speak to it need."""
        return {
            "FLWR_HOME": self.root / "server" / "flwr",
            "FEDMETANAS_RESULTS": self.root / "results",
        }

    def at_server(self, program: str, *words: object) -> None:
        """Run a program at the server's host to its end."""
        done = self.hosts.start("server", BIN / program, *words, **self.surroundings)
        assert done.wait(120) == 0, self.hosts.said("server")

    def results(self, out: Path) -> Path:
        """Return the folder in which the server writes the run that has a folder here."""
        return self.root / "results" / str(json.loads((out / "run.json").read_text())["name"])

    def rounds(self, out: Path) -> list[dict[str, Any]]:
        return rounds(self.results(out)) if (out / "run.json").exists() else []


class Run:
    """`fedmetanas run` at the server's host, and what it says."""

    def __init__(self, federation: Federation, *words: object) -> None:
        hosts = federation.hosts
        self.path = hosts.home("server") / f"run-{time.monotonic_ns()}"
        script = f'exec "$@" > {self.path} 2>&1'
        command = ("sh", "-c", script, "sh", BIN / "fedmetanas", "run", *words)
        elsewhere = ("--engine", "superlink", "--superlink", "federation")
        self.process = hosts.start("server", *command, *elsewhere, **federation.surroundings)

    @property
    def said(self) -> str:
        return self.path.read_text() if self.path.exists() else ""

    def ends(self, code: int, seconds: float = 240.0) -> str:
        found = self.process.wait(seconds)
        assert found == code, self.said
        return self.said


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    mark = tmp_path_factory.mktemp("hosts")
    try:
        hosts = Hosts(mark)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"network namespaces cannot be made here: {error}")
    try:
        yield Federation(hosts)
    finally:
        hosts.end()
    assert left_over(str(mark)) == []


def settings_of(*overrides: str) -> str:
    named = f"sites=[{', '.join(SITES)}]"
    chosen = (named, "held_out_sites=[]", f"rounds={ROUNDS}", "evaluation.every=3")
    wait = "engine.wait=300"  # a busy machine must not begin with fewer
    return tiny.settings_of("data.cache=", *AGREED, *chosen, wait, *overrides).to_yaml()


def experiment(federation: Federation, *overrides: str) -> Path:
    path = federation.hosts.home("server") / f"tiny-{time.monotonic_ns()}.yaml"
    path.write_text(settings_of(*overrides))
    return path


#: What the files of others leave out, and why they are refused.
STRANGERS = {
    "no key": ("key", "wants a key; set key"),
    "unknown key": ("", "does not accept the key"),
    "other authority": ("", "not signed by the authority in"),
    "plain": ("root-certificates key", "speaks TLS; set root-certificates"),
}


@pytest.fixture(scope="module")
def completed(federation: Federation) -> tuple[Path, dict[str, str]]:
    """A run that completed while others tried to join, and what the logs of these say."""
    strangers = {name: stranger(federation, name) for name in STRANGERS}
    out = federation.hosts.home("server") / "completed"
    Run(federation, experiment(federation), "--out", out).ends(0)
    told = {}
    for name, process in strangers.items():
        assert process.wait(120) == 2, name
        told[name] = (federation.hosts.home("stranger") / name / "log" / "site.log").read_text()
    return out, told


def stranger(federation: Federation, name: str) -> subprocess.Popen[bytes]:
    """Start a site that says it is north, with something wrong in its kit."""
    kit = federation.hosts.home("stranger") / name
    shutil.copytree(federation.kit("north"), kit, ignore=shutil.ignore_patterns("log", "results"))
    left_out = STRANGERS[name][0].split()
    lines = (kit / "site.toml").read_text().splitlines()
    (kit / "site.toml").write_text(
        "".join(f"{line}\n" for line in lines if line.partition(" ")[0] not in left_out)
    )
    if name == "unknown key":
        node_key(kit / "north.key")
    if name == "other authority":
        (kit / "ca.crt").write_bytes(Authority(federation.hosts.mark).path.read_bytes())
    return federation.hosts.start(
        "stranger", BIN / "fedmetanas", "site", "start", kit / "site.toml"
    )


@pytest.mark.parametrize("name", STRANGERS)
def test_each_stranger_is_refused_and_its_log_says_why(
    completed: tuple[Path, dict[str, str]], name: str
) -> None:
    assert STRANGERS[name][1] in completed[1][name]


@pytest.mark.parametrize("engine", ["inline", "ray"])
def test_a_run_over_hosts_has_the_bits_of_a_simulation(
    federation: Federation, completed: tuple[Path, dict[str, str]], engine: str, tmp_path: Path
) -> None:
    out, root = tmp_path / "out", tmp_path / "images"
    for name in SITES:
        shutil.copytree(federation.images(name), root / name)
    yaml = experiment(federation, f"data.root={root}", f"data.cache={tmp_path / 'cache'}")
    simulated = subprocess.run(
        [BIN / "fedmetanas", "run", yaml, "--engine", engine, "--out", out],
        capture_output=True,
        text=True,
    )

    assert simulated.returncode == 0, simulated.stderr
    assert_same_result(out, completed[0])
    summary = run_folder.read_summary(out)
    assert summary
    assert summary["tested_on"] == "sites"
    assert {name: site["images"] for name, site in summary["sites"].items()} == {
        name: sum(test for _, test in counts.values()) for name, counts in SITES.items()
    }


def test_every_site_has_kept_the_network(
    federation: Federation, completed: tuple[Path, dict[str, str]]
) -> None:
    for name in SITES:
        results = federation.results(completed[0])
        kept = federation.kit(name) / "results" / results.name
        for file in (run_folder.GENOTYPE, run_folder.WEIGHTS):
            assert (kept / file).read_bytes() == (results / file).read_bytes()


CALLS = """
import http.client, ssl, sys
certificates, host, *paths = sys.argv[1:]
context = ssl.create_default_context(cafile=certificates)
for path in paths:
    call = http.client.HTTPSConnection(host, 9092, timeout=20, context=context)
    call.request("POST", path, headers={"X-Forwarded-For": "127.0.0.1"})
    print(path, call.getresponse().status)
"""


def test_no_other_host_may_start_runs(federation: Federation) -> None:
    certificates, server = federation.kit("north") / "ca.crt", ADDRESSES["server"]
    paths = {"control/start-run": 403, "control/list-nodes": 403, "runtime/acquire-task": 403}
    for host in ("north", "stranger"):
        words = (sys.executable, "-c", CALLS, certificates, server, *(f"/v1/{p}" for p in paths))
        assert federation.hosts.start(host, *words).wait(60) == 0
        for path, status in paths.items():
            assert f"/v1/{path} {status}\n" in federation.hosts.said(host)


def test_no_name_of_a_file_leaves_a_site(federation: Federation) -> None:
    hosts, out = federation.hosts, federation.hosts.home("server") / "errors"
    broken = federation.images("north") / "train" / "cat" / f"{PERSON}-1961.png"
    settings = experiment(federation, "rounds=3", "min_replies=1", "evaluation.every=1")
    try:
        run = Run(federation, settings, "--out", out)
        wait_for(lambda: federation.rounds(out), "the first round")
        broken.write_bytes(b"\x89PNG no more")
        said = run.ends(0)
        again = Run(federation, settings).ends(2)
    finally:
        broken.unlink()

    left = [one for line in federation.rounds(out) for one in line["left_out"]]
    assert {(one["client"], one["stage"]) for one in left} >= {(0, "train"), (0, "evaluate")}
    log = federation.log("north")
    for words in (said, again, *(one["reason"] for one in left)):
        (number,) = set(re.findall(r"north: DataError ([0-9a-f]{8})", words)[:1])
        text = log.partition(f"error {number}\n")[2].partition("\nerror ")[0]
        assert broken.name in text
    for path in hosts.home("server").rglob("*"):
        if path.is_file():
            assert PERSON.encode() not in path.read_bytes(), path


def test_a_run_goes_on_after_its_server_was_killed(
    federation: Federation, completed: tuple[Path, dict[str, str]]
) -> None:
    hosts, home = federation.hosts, federation.hosts.home("server")
    out, other = home / "killed", home / "changed"
    run = Run(federation, experiment(federation), "--out", out)
    wait_for(lambda: len(federation.rounds(out)) >= 3, "three rounds")

    hosts.kill("server", spared=run.process.pid)
    federation.serve()
    assert f"--resume {out}" in run.ends(1)

    shutil.copytree(out, other)
    known = json.loads((out / "run.json").read_text())
    (other / "run.json").write_text(json.dumps(known | {"name": "changed"}))
    shutil.copytree(federation.results(out), federation.results(other))
    write_images(federation.images("south"), 9, {"dog": (0, 0), "cat": (1, 0)})
    assert "south: its images have changed" in Run(federation, "--resume", other).ends(2)
    Run(federation, "--resume", other, "--accept-changed", "south").ends(0)

    write_images(federation.images("south"), 1, SITES["south"])
    Run(federation, "--resume", out).ends(0)
    assert_same_result(out, completed[0])
    weights = [(folder / run_folder.WEIGHTS).read_bytes() for folder in (out, other)]
    assert weights[0] != weights[1]


#: In Flower's words, how each of two sites is accepted again: a new process, and the old one.
ACCEPTED = {"north": "SuperNode ID:", "west": "Connection successful"}


def test_sites_that_are_killed_or_cut_off_come_back(federation: Federation) -> None:
    hosts, out = federation.hosts, federation.hosts.home("server") / "away"
    settings = experiment(federation, "rounds=999", "min_replies=1", "evaluation.every=999")
    run = Run(federation, settings, "--out", out)
    wait_for(lambda: len(federation.rounds(out)) >= 2, "two rounds")
    before = {name: federation.log(name).count(words) for name, words in ACCEPTED.items()}
    began = time.monotonic()

    hosts.kill("north")
    hosts.wire("west", "down")
    federation.play("north")
    wait_for(lambda: time.monotonic() > began + CUT, "the time of the cut")
    hosts.wire("west", "up")
    accepted: dict[str, int] = {}  # after how many rounds

    def are_back() -> bool:
        done = len(federation.rounds(out))
        for name, words in ACCEPTED.items():
            if federation.log(name).count(words) > before[name]:
                accepted.setdefault(name, done)
        return len(accepted) == 2 and done > max(accepted.values()) + 2

    wait_for(are_back, "both sites")
    number = json.loads((out / "run.json").read_text())["run_id"]
    federation.at_server("flwr", "stop", number, "federation")
    run.ends(1)

    lines = federation.rounds(out)
    for client, name in enumerate(SITES):
        left = [any(one["client"] == client for one in line["left_out"]) for line in lines]
        assert left[:2] == [False, False]
        assert any(left) is (name in ACCEPTED)
        if name in ACCEPTED:
            assert not any(left[accepted[name] + 2 :])
            assert f"{name} left out of train: " in run.said
    for line in lines:  # nobody answers for those who are away
        away = sum(one["reason"] == "it is away" for one in line["left_out"])
        asked, answered = len(SITES) - away, len(SITES) - len(line["left_out"])
        down, up = line["bytes_down"]["weights"], line["bytes_up"]["weights"]
        assert up * asked == down * answered
