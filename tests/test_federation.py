"""Federations: certificates, keys and kits, who is in them, and the server that serves them."""

import asyncio
import contextlib
import errno
import http.client
import itertools
import json
import os
import re
import shutil
import signal
import socket
import ssl
import stat
import subprocess
import time
import tomllib
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509
from flwr.cli.supernode.register import try_load_public_key
from PIL import Image
from sklearn.datasets import load_digits
from test_run import BIN, left_over

from fedmetanas.experiments.commands.main import main
from fedmetanas.experiments.federation import authority, folder, kits
from fedmetanas.experiments.federation.example import CLASSES, SETTINGS, make_example
from fedmetanas.experiments.federation.superlink import FleetAlone
from fedmetanas.experiments.settings import from_yaml

ADDRESSES = ("fl.example.org", "198.51.100.7")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A federation that no test changes."""
    root = tmp_path_factory.mktemp("made") / "federation"
    folder.create(root, ("north", "south"), ADDRESSES, 9092)
    return root


def init(root: Path, *arguments: str) -> int:
    return main(["federation", "init", str(root), "--sites", "north,south", *arguments])


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Return the one line with which a command refuses."""
    try:
        code = main(["federation", *arguments])
    except SystemExit as exited:
        code = int(str(exited.code))
    captured = capsys.readouterr()
    assert code == 2
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith("fedmetanas: ")
    return line


def contents(root: Path) -> dict[str, bytes]:
    files = (path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


# Certificates and keys


def test_the_server_is_verified_by_openssl(made: Path) -> None:
    ca, server = (str(made / "server" / name) for name in ("ca.crt", "server.crt"))
    words = ["openssl", "verify", "-x509_strict", "-purpose", "sslserver", "-CAfile", ca, server]

    answer = subprocess.run(words, capture_output=True, text=True)

    assert (answer.returncode, answer.stdout) == (0, f"{server}: OK\n"), answer.stderr


def shake_hands(server: Path, ca: Path, host: str) -> None:
    """Let a TLS server and a client of Python's own talk until each knows the other."""
    ours = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ours.load_cert_chain(server / "server.crt", server / "server.key")
    theirs = ssl.create_default_context(cafile=ca)
    theirs.verify_flags |= ssl.VERIFY_X509_STRICT
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [
        theirs.wrap_bio(down, up, server_hostname=host),
        ours.wrap_bio(up, down, server_side=True),
    ]
    for side in (*sides, *sides):
        with contextlib.suppress(ssl.SSLWantReadError):
            side.do_handshake()
    assert sides[0].version() is not None


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", *ADDRESSES])
def test_a_site_knows_the_server_by_each_of_its_addresses(made: Path, host: str) -> None:
    shake_hands(made / "server", made / "kits" / "north" / "ca.crt", host)


def test_a_site_knows_no_other_server(made: Path, tmp_path: Path) -> None:
    other = folder.create(tmp_path / "other", ("north",), ADDRESSES, 9092)

    with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
        shake_hands(made / "server", made / "server" / "ca.crt", "fl.example.com")
    with pytest.raises(ssl.SSLCertVerificationError, match="verify failed"):
        shake_hands(other.server, made / "server" / "ca.crt", "fl.example.org")


def test_keys_are_such_as_flower_and_ssh_take(made: Path) -> None:
    halves = []
    for name in ("north", "south"):
        key, public = made / "kits" / name / f"{name}.key", made / "server" / "keys" / f"{name}.pub"
        words = ["ssh-keygen", "-y", "-f", str(key)]
        half = subprocess.run(words, check=True, capture_output=True, text=True).stdout
        halves.append(half.split()[1])

        assert half.split()[:2] == public.read_text().split()[:2]
        assert half.startswith("ecdsa-sha2-nistp384 ")
        assert try_load_public_key(public)
    assert halves[0] != halves[1]


def test_private_keys_are_for_their_owners_alone(made: Path) -> None:
    private = {name for name, content in contents(made).items() if b"PRIVATE KEY" in content}

    assert private == {
        "authority/ca.key",
        "server/server.key",
        "kits/north/north.key",
        "kits/south/south.key",
    }
    for name in private:
        assert stat.S_IMODE((made / name).stat().st_mode) == 0o600
    for path in (made, *made.rglob("*")):
        if path.is_dir():
            assert stat.S_IMODE(path.stat().st_mode) == 0o700


def test_a_kit_is_whole_and_says_where_the_server_is(made: Path) -> None:
    kit = made / "kits" / "north"
    file = tomllib.loads((kit / "site.toml").read_text())

    assert file == {
        "name": "north",
        "data": "/path/to/the/images",
        "superlink": "fl.example.org:9092",
        "root-certificates": "ca.crt",
        "key": "north.key",
        "device": "cpu",
        "disclose": "counts",
        "log": "log",
        "results": "results",
    }
    assert (kit / file["key"]).is_file()
    assert (kit / "ca.crt").read_bytes() == (made / "authority" / "ca.crt").read_bytes()
    until = authority.good_until(kit / "ca.crt")
    assert f"{until:%Y-%m-%d}" in (kit / "README.md").read_text()
    assert until > datetime.now(UTC) + timedelta(days=9 * 365)


# Scripts, units and containers


def shell_scripts(root: Path) -> list[Path]:
    return sorted(root.rglob("*.sh"))


def test_scripts_are_such_as_a_shell_takes(made: Path) -> None:
    scripts = shell_scripts(made)

    assert len(scripts) == 3
    for script in scripts:
        assert subprocess.run(["sh", "-n", str(script)]).returncode == 0
        assert os.access(script, os.X_OK)


@pytest.fixture
def recorder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program `fedmetanas`, first on PATH, that says with what and where it was called."""
    stub = tmp_path / "bin" / "fedmetanas"
    stub.parent.mkdir()
    stub.write_text('#!/bin/sh\npwd -P\nprintf "%s\\n" "$@"\n')
    stub.chmod(0o755)
    monkeypatch.setenv("PATH", f"{stub.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(folder, "program", lambda name: str(stub))
    return stub


ODD = 'a "quoted" $HOME 50% it\'s'


def test_scripts_find_their_folder(recorder: Path, tmp_path: Path) -> None:
    root = tmp_path / ODD
    assert init(root) == 0

    kit, server = root / "kits" / "north", root / "server"
    site, serve = (
        subprocess.run([str(one / "start.sh")], capture_output=True, text=True).stdout.splitlines()
        for one in (kit, server)
    )

    assert site == [str(kit), "site", "start", "site.toml"]
    assert serve[1:3] == ["federation", "up"]
    assert Path(serve[3]).resolve() == root


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="there is no systemd here")
def test_units_are_such_as_systemd_takes(recorder: Path, tmp_path: Path) -> None:
    root = tmp_path / ODD
    assert init(root) == 0
    site = tmp_path / "fedmetanas-site.service"
    kit = root / "kits" / "north"
    text = (kit / site.name).read_text()
    shutil.copytree(kit, tmp_path / "kit")
    site.write_text(
        text.replace("/opt/fedmetanas-site", str(tmp_path / "kit")).replace("=fedmetanas\n", "=0\n")
    )

    for unit in (root / "server" / "fedmetanas-server.service", site):
        words = ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", str(unit)]
        answer = subprocess.run(words, capture_output=True, text=True)
        assert (answer.returncode, answer.stderr) == (0, "")


def test_containers_mount_their_own_folder_alone(made: Path) -> None:
    kit, server = made / "kits" / "north", made / "server"
    (site,) = yaml.safe_load((kit / "compose.yaml").read_text())["services"].values()
    (serving,) = yaml.safe_load((server / "compose.yaml").read_text())["services"].values()

    images = "${IMAGES:?the folder that is data in site.toml}:${IMAGES}:ro"
    assert site["volumes"] == [".:/kit", images]
    assert serving["volumes"] == [".:/federation/server", "../results:/federation/results"]
    assert serving["ports"] == ["9092:9092"]
    assert "ports" not in site
    for one in (site, serving):
        assert one["build"] == "."
        assert one["cap_drop"] == ["ALL"]
        assert "privileged" not in one
    for one in (kit, server):
        copied = re.findall(r"^(?:COPY|ADD) (.*)$", (one / "Dockerfile").read_text(), re.M)
        assert copied == ["fedmetanas-*.whl /tmp/"]
        assert (one / ".dockerignore").read_text() == "*\n!fedmetanas-*.whl\n"
        for name in ("Dockerfile", "compose.yaml"):
            assert "no container could be built or run" in (one / name).read_text()


# Whole or not at all


def test_a_federation_is_made_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write = kits.write

    def write_until_full(path: Path, content: bytes, mode: int = 0o644) -> None:
        if next(written) == room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(path, content, mode)

    monkeypatch.setattr(kits, "write", write_until_full)
    monkeypatch.setattr(folder, "write", write_until_full)
    for room in itertools.count():  # noqa: B007  # read above
        written = itertools.count()
        code = init(tmp_path / "federation")
        if code == 0:
            break
        assert code == 2
        assert "No space left" in capsys.readouterr().err
        assert list(tmp_path.iterdir()) == []
    assert room > 20


@pytest.mark.parametrize("there", ["a file", "a folder with a file"])
def test_nothing_is_overwritten(
    there: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "federation"
    if there == "a file":
        root.write_text("mine")
    else:
        root.mkdir()
        (root / "mine").write_text("mine")
    before = contents(tmp_path)

    line = refusal(capsys, "init", str(root), "--sites", "north")

    assert str(root) in line
    assert contents(tmp_path) == before


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    assert init(tmp_path) == 0
    assert (tmp_path / "kits" / "south" / "south.key").is_file()


# Who is in it


def test_a_site_is_added_and_no_other_is_touched(made: Path, tmp_path: Path) -> None:
    root = tmp_path / "federation"
    shutil.copytree(made, root)
    before = contents(root)

    assert main(["federation", "add", str(root), "east"]) == 0

    after = contents(root)
    assert {name: after[name] for name in before} == before
    assert {name for name in after if name not in before} == {
        "server/keys/east.pub",
        *(name.replace("north", "east") for name in before if name.startswith("kits/north/")),
    }
    assert folder.opened(root).sites == ["east", "north", "south"]


def test_a_lost_key_is_replaced(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "federation"
    shutil.copytree(made, root)
    lost = (root / "kits" / "north" / "north.key").read_bytes()
    assert "remove" in refusal(capsys, "add", str(root), "north")

    assert main(["federation", "remove", str(root), "north"]) == 0
    assert folder.opened(root).sites == ["south"]
    assert not (root / "kits" / "north").exists()
    assert main(["federation", "add", str(root), "north"]) == 0

    assert folder.opened(root).sites == ["north", "south"]
    new = root / "kits" / "north" / "north.key"
    assert new.read_bytes() != lost
    words = ["ssh-keygen", "-y", "-f", str(new)]
    half = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    assert half.split()[:2] == (root / "server" / "keys" / "north.pub").read_text().split()[:2]


def test_what_a_site_has_kept_in_its_kit_stays(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "federation"
    shutil.copytree(made, root)
    network = root / "kits" / "north" / "results" / "network"
    network.parent.mkdir()
    network.write_text("kept")

    assert main(["federation", "remove", str(root), "north"]) == 0

    assert contents(root / "kits" / "north") == {"results/network": b"kept"}
    assert "stays" in capsys.readouterr().out
    assert "move it away" in refusal(capsys, "add", str(root), "north")


# Bad input


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--sites", "../north"], "name of a site"),
        (["--sites", "north,"], "name of a site"),
        (["--sites", "n" * 64], "name of a site"),
        (["--sites", "north,south,north"], "north stands there twice"),
        (["--sites", "north", "--address", "fl.example.org:9092"], "--address"),
        (["--sites", "north", "--address", "https://fl.example.org"], "--address"),
        (["--sites", "north", "--address", "300.1.1.1"], "--address"),
        (["--sites", "north", "--address", "2001:db8::1"], "IPv4"),
        (["--sites", "north", "--address", "-a.org"], "--address"),
        (["--sites", "north", "--address", ""], "--address"),
        (["--sites", "north", "--port", "0"], "1 to 65535"),
        (["--sites", "north", "--port", "65536"], "1 to 65535"),
        (["--sites", "north", "--port", "x"], "1 to 65535"),
        ([], "--sites"),
    ],
)
def test_bad_words_make_nothing(
    arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said in refusal(capsys, "init", str(tmp_path / "f"), *arguments)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = str(tmp_path / "no" / "such")

    assert "No such file" in refusal(capsys, "init", missing, "--sites", "north")
    for words in (["up", missing], ["add", missing, "north"], ["remove", missing, "north"]):
        assert "federation init" in refusal(capsys, *words)
    assert "--local" in refusal(capsys, "up")


@pytest.mark.parametrize("name", ["../north", "", "a b", "-north"])
def test_a_bad_name_is_not_added(name: str, made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(made)

    assert "name of a site" in refusal(capsys, "add", str(made), "--", name)
    assert "no site" in refusal(capsys, "remove", str(made), "--", name)
    assert contents(made) == before


@pytest.mark.parametrize(
    "text", ["", "addresses = []", "port = 1", "addresses = [1]\nport = 1", "\0", "port = 'x'"]
)
def test_a_damaged_file_is_refused(
    text: str, made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "federation"
    shutil.copytree(made, root)
    (root / "server" / "federation.toml").write_text(text)

    assert "is damaged" in refusal(capsys, "up", str(root))


def test_a_server_does_not_start_with_an_expired_certificate(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "federation"
    monkeypatch.setattr(authority, "YEARS", -1 / 365 / 2)  # half a day ago
    folder_of_old = authority.certificates(())[1].public
    shutil.copytree(made, root)
    (root / "server" / "server.crt").write_bytes(folder_of_old)

    line = refusal(capsys, "up", str(root))

    expired = x509.load_pem_x509_certificate(folder_of_old).not_valid_after_utc
    assert f"expired on {expired:%Y-%m-%d}" in line
    assert "make a new federation" in line


@pytest.mark.parametrize("file", ["server.key", "server.crt", "ca.crt", "keys/north.pub"])
def test_a_server_does_not_start_without_its_keys(
    file: str, made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "federation"
    shutil.copytree(made, root)
    (root / "server" / file).write_text("damaged")

    assert f"{root / 'server' / file} is not a" in refusal(capsys, "up", str(root))


def test_a_port_in_use_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert init(tmp_path, "--port", str(port)) == 0
        capsys.readouterr()

        assert f"port {port} " in refusal(capsys, "up", str(tmp_path))
    assert not (tmp_path / "server" / "nodes.json").exists()


# What the server takes from whom


def answer_of(kind: str, path: str, client: Any) -> int:
    """Return the status that a caller gets; 200 is that of the app behind."""
    sent: list[dict[str, Any]] = []

    async def behind(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200})

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        raise AssertionError("nothing is read of what is refused")

    scope = {"type": kind, "path": path, "client": client}
    asyncio.run(FleetAlone(behind)(scope, receive, send))
    return int(sent[0]["status"])


@pytest.mark.parametrize(
    ("path", "elsewhere"),
    [
        ("/v1/fleet/pull-messages", 200),
        ("/v1/control/start-run", 403),
        ("/v1/control/register-node", 403),
        ("/v1/runtime/acquire-task", 403),
        ("/v1/runtime/push-messages", 403),
        ("/docs", 403),
        ("/v1/fleet", 403),
        ("/v1/FLEET/pull-messages", 403),
    ],
)
def test_other_machines_reach_what_nodes_need(path: str, elsewhere: int) -> None:
    assert answer_of("http", path, ("127.0.0.1", 5)) == 200
    assert answer_of("http", path, ("::1", 5)) == 200
    for client in (("198.51.100.7", 5), ("2001:db8::1", 5), ("testclient", 5), None):
        assert answer_of("http", path, client) == elsewhere
    assert answer_of("websocket", path, ("198.51.100.7", 5)) == 403


def test_flower_serves_nodes_at_no_other_path() -> None:
    from flwr.superlink.main import create_app

    app = create_app()
    paths = set(app.openapi()["paths"])

    nodes = {path for path in paths if "fleet" in path}
    assert len(nodes) > 5
    assert all(path.startswith("/v1/fleet/") for path in nodes)
    assert {"/v1/control/start-run", "/v1/control/register-node"} <= paths


# A federation to try


def test_the_sites_of_an_example_have_all_digits_between_them(tmp_path: Path) -> None:
    made = make_example(tmp_path / "federation")

    pixels, labels = load_digits(return_X_y=True)
    assert not (made.kit("east") / "images" / "nine").exists()
    for label, name in enumerate(CLASSES):
        wanted = (pixels[labels == label] / 16 * 255).astype("uint8")
        kept = [
            Image.open(path).tobytes()
            for site in made.sites
            for path in (made.kit(site) / "images" / name).glob("*.png")
        ]
        # Nobody has another's image; the rest of a division by ten is nobody's.
        assert not Counter(kept) - Counter(image.tobytes() for image in wanted)
        assert len(wanted) - 3 < len(kept) <= len(wanted)
    for site in made.sites:
        file = tomllib.loads((made.kit(site) / "site.toml").read_text())
        assert (made.kit(site) / file["data"]).is_dir()
        assert file["superlink"] == f"127.0.0.1:{made.port}"
    settings = from_yaml(SETTINGS)
    assert sorted(settings.sites) == made.sites
    assert settings.data.classes == CLASSES


def test_an_example_that_cannot_be_whole_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Image.Image, "save", full)

    assert main(["federation", "up", "--local", str(tmp_path / "federation")]) == 2
    assert list(tmp_path.iterdir()) == []


def test_a_federation_of_others_is_not_played(
    made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "not a federation to try" in refusal(capsys, "up", str(made), "--local")


# A real server


class Server:
    """`fedmetanas federation up`, as its own process, and what it prints."""

    def __init__(self, root: Path, mark: Path) -> None:
        self.root, self.log = root, mark / f"up-{time.monotonic_ns()}"
        self.environment = {**os.environ, "RUN_OF_THE_TEST": str(mark)}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [str(BIN / "fedmetanas"), "federation", "up", str(root)],
                env=self.environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def says(self, words: str, seconds: float = 60.0) -> None:
        ends = time.monotonic() + seconds
        while words not in self.log.read_text():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < ends, self.log.read_text()
            time.sleep(0.1)

    def nodes(self) -> dict[str, str]:
        return dict(json.loads((self.root / "server" / "nodes.json").read_text()))

    def call(self, path: str, caller: str = "") -> int:
        """Return the status of an empty call, made for somebody elsewhere if one is named."""
        context = ssl.create_default_context(cafile=self.root / "server" / "ca.crt")
        port = folder.opened(self.root).port
        connection = http.client.HTTPSConnection("127.0.0.1", port, context=context)
        headers = {"X-Forwarded-For": caller} if caller else {}
        connection.request("POST", path, headers=headers)
        return connection.getresponse().status

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(30)


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Any]:
    started: list[Server] = []

    def up(root: Path) -> Server:
        started.append(Server(root, tmp_path))
        return started[-1]

    yield up
    for server in started:
        if server.process.poll() is None:
            server.end()
    assert left_over(str(tmp_path)) == []


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_server_knows_its_sites_and_takes_runs_from_its_machine_alone(
    servers: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "federation"
    assert init(root, "--port", str(free_port())) == 0
    server = servers(root)
    server.says("fedmetanas run EXPERIMENT")
    before = server.nodes()

    control, runtime = "/v1/control/list-nodes", "/v1/runtime/acquire-task"
    assert [server.call(path, "198.51.100.7") for path in (control, runtime)] == [403, 403]
    assert server.call(control) not in (401, 403, 404)
    assert server.call("/v1/fleet/pull-messages", "198.51.100.7") not in (403, 404)
    capsys.readouterr()
    assert "runs already" in refusal(capsys, "up", str(root))
    assert main(["federation", "remove", str(root), "north"]) == 0
    assert main(["federation", "add", str(root), "north"]) == 0
    after = server.nodes()
    ended = server.end()

    assert set(before) == set(after) == {"north", "south"}
    assert all(node.isdecimal() for node in after.values())
    assert after["south"] == before["south"]
    assert after["north"] != before["north"]
    assert ended == 128 + signal.SIGTERM
    assert left_over(str(tmp_path)) == []
    for name in ("results", "server/flwr", "server/state"):
        assert stat.S_IMODE((root / name).stat().st_mode) == 0o700
    assert "Traceback" not in server.log.read_text()


@pytest.mark.soak
def test_a_server_is_the_same_after_it_was_killed(servers: Any, tmp_path: Path) -> None:
    root = tmp_path / "federation"
    assert init(root, "--port", str(free_port())) == 0
    server = servers(root)
    server.says("fedmetanas run EXPERIMENT")
    before = server.nodes()

    server.end(signal.SIGKILL)
    assert left_over(str(tmp_path)) == []
    assert main(["federation", "remove", str(root), "north"]) == 0
    assert main(["federation", "add", str(root), "east"]) == 0
    again = servers(root)
    again.says("fedmetanas run EXPERIMENT")

    assert again.nodes().keys() == {"east", "south"}
    assert again.nodes()["south"] == before["south"]
    assert again.end(signal.SIGINT) == 128 + signal.SIGINT


def own_address() -> str:
    """Return an address of this machine that others can reach; nothing is sent to find it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("198.51.100.1", 9))
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])


@pytest.mark.soak
@pytest.mark.skipif(own_address().startswith("127."), reason="this machine is in no network")
def test_who_comes_over_the_network_starts_no_runs(servers: Any, tmp_path: Path) -> None:
    root, port = tmp_path / "federation", free_port()
    assert init(root, "--port", str(port), "--address", own_address()) == 0
    server = servers(root)
    server.says("fedmetanas run EXPERIMENT")

    for address, message in ((own_address(), "own machine alone"), ("127.0.0.1", "")):
        home = tmp_path / address
        home.mkdir()
        (home / "config.toml").write_text(
            f'[superlink.x]\naddress = "{address}:{port}"\n'
            f'root-certificates = "{root / "server" / "ca.crt"}"\n'
        )
        answer = subprocess.run(
            [str(BIN / "flwr"), "supernode", "ls", "x", "--format", "json"],
            env={**os.environ, "FLWR_HOME": str(home), "FLWR_TELEMETRY_ENABLED": "0"},
            capture_output=True,
            text=True,
        )
        found = json.loads(answer.stdout)
        assert found["success"] is (not message), answer.stdout
        assert message in answer.stdout


@pytest.mark.soak
def test_one_command_plays_a_whole_federation(tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "RUN_OF_THE_TEST": str(tmp_path),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }

    played = subprocess.run(
        [str(BIN / "fedmetanas"), "federation", "up", "--local"],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )

    assert played.returncode == 0, played.stdout + played.stderr
    assert left_over(str(tmp_path)) == []
    (summary,) = (tmp_path / "federation" / "results").glob("*/summary.json")
    found = json.loads(summary.read_text())
    assert found["tested_on"] == "sites"
    assert found["test_accuracy"] > 0.6
    assert f"{found['test_accuracy']:.4f}" in played.stdout
    for site in ("north", "south", "east"):
        assert list((tmp_path / "federation" / "kits" / site / "results").rglob("*.safetensors"))
