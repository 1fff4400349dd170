"""A site: its file, its check, its connection, what it is told, what it keeps, and being it."""

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from certificates import DAY, NOW, Authority, node_key
from PIL import Image
from test_deployment import free_port, wait_for
from test_run import BIN, left_over, of_processes

from fedmetanas.errors import GenotypeError, RunError, SettingsError, UnwritableError
from fedmetanas.experiments.commands.main import main
from fedmetanas.experiments.data.registry import Dataset, Images, Reading
from fedmetanas.experiments.results import run_folder, site_folder
from fedmetanas.experiments.settings import from_yaml
from fedmetanas.experiments.sites import connection, supernode
from fedmetanas.experiments.sites.connection import NobodyThereError, connect
from fedmetanas.experiments.sites.facts import facts_of
from fedmetanas.experiments.sites.faults import faults_of, warnings_of
from fedmetanas.experiments.sites.site_file import SiteFile, read_site
from fedmetanas.experiments.sites.site_log import FILE, report
from fedmetanas.search_space.genotype import Genotype
from fedmetanas.search_space.supernet import initial_weights

LEAST = {"name": "north", "data": "images", "superlink": "127.0.0.1:9092"}


def site_toml(folder: Path, **changes: str) -> Path:
    """Write a site's file; a value of "" leaves a key out."""
    tree = LEAST | {key.replace("_", "-"): value for key, value in changes.items()}
    path = folder / "site.toml"
    path.write_text("".join(f'{key} = "{value}"\n' for key, value in tree.items() if value))
    return path


def site_of(folder: Path, **changes: str) -> SiteFile:
    return read_site(site_toml(folder, **changes))


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


# The file


def test_paths_in_a_file_start_in_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/ann")
    monkeypatch.chdir(tmp_path.parent)
    changes = {"root_certificates": "~/ca.crt", "key": "keys/north.key", "results": "/srv/results"}

    site = read_site(Path(tmp_path.name) / site_toml(tmp_path, **changes).name)

    assert site.data == tmp_path / "images"
    assert site.root_certificates == Path("/home/ann/ca.crt")
    assert site.key == tmp_path / "keys" / "north.key"
    assert (site.log, site.results) == (tmp_path / "log", Path("/srv/results"))
    assert (site.device, site.disclose) == ("cpu", "none")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name = north", ["not valid TOML", "line 1"]),
        ("[" * 9999, ["not valid TOML"]),
        ('name = "n"\nname = "m"', ["not valid TOML"]),
        ("", ["name is missing", "data is missing", 'write superlink = "fl.example.org:9092"']),
        ('nam = "n"', ["unknown key 'nam'", "did you mean 'name'?", "name is missing"]),
        ("name = 3", ["name: expected a text in quotation marks; found 3"]),
        ('name = ""', ["name: expected a text in quotation marks; found ''"]),
        ('name = "../n"', ["name: expected up to 63 of A-Z", "'../n'"]),
        ('superlink = "https://a.b:1"', ["HOST:PORT", "without https://", "'https://a.b:1'"]),
        ('superlink = "a.b"', ["HOST:PORT", "'a.b'"]),
        ('superlink = "a.b:70000"', ["HOST:PORT", "'a.b:70000'"]),
        ('superlink = "a.b:0"', ["HOST:PORT"]),
        ('device = "gpu"', ["device: expected one of cpu, cuda; found 'gpu'"]),
        ('disclose = "count"', ["disclose: expected one of counts, none", "mean 'counts'?"]),
        ('key = "n.key"', ["key: only used over TLS; set root-certificates"]),
        ('data = "a\\"b"', ["data: expected a path without quotation marks"]),
        ('data = "a\\u0007b"', ["data: expected a path without"]),
        ('data = "~nobody-of-this-name/x"', ["home folder that is unknown"]),
        ("root-certificates = ['ca.crt']", ["root-certificates: expected a text"]),
    ],
)
def test_all_that_is_wrong_in_a_file_is_said_in_a_line(
    text: str, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "site.toml"
    path.write_text(text)

    for action in ("check", "start"):
        assert main(["site", action, str(path)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"fedmetanas: {path}")
        for word in words:
            assert word in line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["check", "nowhere.toml"], "cannot read 'nowhere.toml'"),
        (["chek", "site.toml"], "chek"),
        (["check"], "FILE"),
        (["start", "nowhere.toml", "digits"], "a site's file alone"),
        (["start", "nowhere.toml", "rounds=3"], "a site's file alone"),
    ],
)
def test_wrong_usage_is_a_line(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = main(["site", *arguments])
    except SystemExit as ended:  # argparse's way
        code = int(str(ended.code))

    assert code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line


# What the file names


def test_all_faults_are_said(tmp_path: Path) -> None:
    names = {"root_certificates": "ca.crt", "key": "n.key", "log": "a/log", "results": "a/b"}
    site = site_of(tmp_path, **names)
    (tmp_path / "a").write_text("not a folder")
    (tmp_path / "n.key").write_text("-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n")

    data, key, log, results = faults_of(site)

    assert f"data: {tmp_path}/images is no folder" in data
    assert "n.key is no private key" in key
    assert log.startswith("log: cannot make")
    assert results.startswith("results: cannot make")


def test_a_sound_site_has_no_faults_and_private_folders(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    key = node_key(tmp_path / "n.key")
    site = site_of(tmp_path, root_certificates="ca.crt", key="n.key")

    before = os.umask(0)
    try:
        assert (faults_of(site), warnings_of(site)) == ([], [])
    finally:
        os.umask(before)
    assert (mode(site.log), mode(site.results)) == (0o700, 0o700)

    key.chmod(0o644)
    (readable,) = warnings_of(site)
    assert "chmod 600" in readable


def test_a_site_without_certificates_and_key_is_warned(tmp_path: Path) -> None:
    plain, anybody = warnings_of(site_of(tmp_path))

    assert "nothing is encrypted" in plain
    assert "can play north" in anybody


# The connection

ANSWER = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"


@contextmanager
def server(
    certificate: tuple[Path, Path] | None = None, answer: bytes | None = ANSWER
) -> Iterator[str]:
    """Answer on loopback, over TLS if there is a certificate; None: be silent. Yield HOST:PORT."""
    context = None
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)

    def serve() -> None:
        while True:
            try:
                link, _ = listener.accept()
            except OSError:  # closed: the test is over
                return
            if answer is None:
                silent.append(link)
                continue
            try:
                talking = context.wrap_socket(link, server_side=True) if context else link
                talking.recv(1000)
                talking.sendall(answer)
                talking.close()
            except OSError:
                pass
            link.close()

    silent: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
    thread.join()
    for link in silent:
        link.close()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


def refusal(superlink: str, root_certificates: Path | None) -> str:
    with pytest.raises(SettingsError) as caught:
        connect(superlink, root_certificates)
    assert type(caught.value) is SettingsError  # and so nothing that passes by itself
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def test_a_sound_connection_says_until_when(authority: Authority) -> None:
    with server(authority.server()) as superlink:
        said = connect(superlink, authority.path)
    with server() as plain:
        assert "not encrypted" in connect(plain, None)

    assert "encrypted (TLS)" in said
    assert (NOW + 9 * DAY).strftime("%Y GMT") in said


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda own, foreign: foreign.server(), "not signed by the authority in"),
        (lambda own, foreign: own.server(before=NOW - DAY), "of its authority, has expired"),
        (lambda own, foreign: own.server(after=NOW + DAY), "is not valid yet"),
        (lambda own, foreign: own.server("fl.example.org"), "for another name than 127.0.0.1"),
    ],
)
def test_each_wrong_certificate_is_told_apart(
    make: Callable[[Authority, Authority], tuple[Path, Path]],
    words: str,
    authority: Authority,
    tmp_path: Path,
) -> None:
    with server(make(authority, Authority(tmp_path))) as superlink:
        assert words in refusal(superlink, authority.path)


def test_plain_http_and_tls_are_told_apart(authority: Authority) -> None:
    with server() as superlink:
        assert f"{superlink} speaks plain HTTP" in refusal(superlink, authority.path)
    with server(authority.server()) as superlink:
        assert f"{superlink} speaks TLS; set root-certificates" in refusal(superlink, None)


def test_another_server_is_no_superlink(authority: Authority) -> None:
    with server(answer=b"SSH-2.0-OpenSSH_9.2\r\n") as superlink:
        assert "is no SuperLink" in refusal(superlink, None)
        assert "is it the right port?" in refusal(superlink, authority.path)
    with server(authority.server(), answer=b"220 mail\r\n") as superlink:
        assert "is no SuperLink" in refusal(superlink, authority.path)


def test_whoever_is_not_there_may_come(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    with server() as superlink:
        pass
    for root_certificates in (None, authority.path):
        with pytest.raises(NobodyThereError, match=f"nothing listens at {superlink}"):
            connect(superlink, root_certificates)
        with pytest.raises(NobodyThereError, match=r"the name no\.such.host\.invalid is not known"):
            connect("no.such.host.invalid:9092", root_certificates)
        with pytest.raises(NobodyThereError, match=r"cannot reach a\.\.b:9092"):
            connect("a..b:9092", root_certificates)
        with server(answer=b"") as silent, pytest.raises(NobodyThereError, match="go on talking"):
            connect(silent, root_certificates)
    monkeypatch.setattr(connection, "SECONDS", 0.2)
    with server(answer=None) as superlink, pytest.raises(NobodyThereError, match="go on talking"):
        connect(superlink, authority.path)


@pytest.mark.parametrize("content", [b"", b"no certificate", None])
def test_a_wrong_file_of_certificates_is_named(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "ca.crt"
    if content is not None:
        path.write_bytes(content)

    assert refusal("127.0.0.1:1", path).startswith("root-certificates: ")


# What the server is told


def images_of(*labels: int) -> Images:
    return Images(np.zeros((len(labels), 8, 9, 3), np.uint8), np.asarray(labels, np.int64))


def test_the_server_is_told_this_and_nothing_else() -> None:
    reading = Reading((12, 9), (640, 480), grey=True, skipped={"hidden files": 2})
    parts = images_of(2, 0, 2, 2), images_of(3, 0)
    dataset = Dataset(*parts, ("a", "b", "c", "d", "e"), "0f", reading)

    facts = facts_of(dataset, "north", "counts")

    versions, code = facts.pop("versions"), facts.pop("code")
    assert facts == {
        "site": "north",
        "train-images": 4,
        "test-images": 2,
        "classes": ["a", "c", "d"],
        "class-counts": [1, 3, 0],
        "smallest-width": 12,
        "smallest-height": 9,
        "largest-width": 640,
        "largest-height": 480,
        "grey": True,
        "data": "0f",
    }
    assert f"torch {torch.__version__.partition('+')[0]}" in versions  # type: ignore[operator]
    assert f"python {sys.version.split()[0]}" in versions  # type: ignore[operator]
    assert len(str(code)) == 64
    assert "class-counts" not in facts_of(dataset, "north", "none")
    unread = facts_of(replace(dataset, reading=None), "north", "none")
    assert [unread[f"{end}-{side}"] for end in ("smallest", "largest") for side in SIDES] == [
        9,
        8,
    ] * 2
    assert unread["grey"] is False


SIDES = ("width", "height")


# Checking


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of images of two classes and different sizes, beside which a site's file may lie."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    draw = np.random.default_rng(0)
    for part, count in (("train", 5), ("test", 2)):
        for name in ("cat", "dog"):
            own = tmp_path / "images" / part / name
            own.mkdir(parents=True)
            for number in range(count):
                pixels = draw.integers(0, 256, (10 + number, 12, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(own / f"Ann Smith {number}.png")
    return tmp_path


def test_a_sound_site_is_ready(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with server() as superlink:
        path = site_toml(folder, superlink=superlink, disclose="counts")
        assert main(["site", "check", str(path)]) == 0

    said = capsys.readouterr()
    assert said.err == ""
    assert said.out.endswith("north is ready\n")
    for line in ("site: north", "train-images: 10", "classes: cat, dog", "class-counts: 5, 5"):
        assert f"  {line}\n" in said.out
    told = said.out.partition("the server would be told, and nothing else:\n")[2]
    told = "".join(line for line in told.splitlines() if line.startswith("  "))
    assert "Ann Smith" not in told
    assert str(folder) not in told
    assert "/" not in told


def test_everything_that_is_wrong_is_said_at_once(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in (3, 4):
        path = folder / "images" / "train" / "cat" / f"Ann Smith {number}.png"
        path.write_bytes(b"\x89PNG broken")
    (folder / "n.key").write_text("no key")
    with server() as superlink:
        pass
    changes = {"superlink": superlink, "root_certificates": "ca.crt", "key": "n.key"}
    Authority(folder)

    assert main(["site", "check", str(site_toml(folder, **changes))]) == 2

    lines = capsys.readouterr().err.splitlines()
    for words in (
        "n.key is no private key",
        "Ann Smith 3.png",
        "Ann Smith 4.png",
        f"nothing listens at {superlink}",
    ):
        (line,) = (line for line in lines if words in line)
        assert line.startswith("fedmetanas: ")


def test_a_site_may_have_one_class_and_lack_another(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "images" / "train" / "dog").rename(folder / "images" / "train" / "owl")
    for file in (folder / "images" / "train" / "owl").iterdir():
        file.unlink()
    for file in (folder / "images" / "test" / "dog").iterdir():
        file.unlink()
    with server() as superlink:
        path = site_toml(folder, superlink=superlink)
        assert main(["site", "check", str(path)]) == 0

    said = capsys.readouterr()
    assert "  classes: cat\n" in said.out
    assert said.err == ""


def test_an_unknown_class_is_named_where_classes_were_agreed_on(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with server() as superlink:
        path = site_toml(folder, superlink=superlink)
        assert main(["site", "check", str(path), "data.classes=[dig, cat]"]) == 2

    said = capsys.readouterr().err.splitlines()
    assert any("classes dog are not in data.classes" in line for line in said), said


def test_an_experiment_is_rehearsed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    yaml = folder / "pets.yaml"
    yaml.write_text("data: {dataset: imagefolder, root: /elsewhere, image_size: 16}\n")
    digests = set()
    with server() as superlink:
        path = site_toml(folder, superlink=superlink)
        for words in ([], [str(yaml)], [str(yaml), "data.image_size=8"], ["data.image_size=8"]):
            assert main(["site", "check", str(path), *words]) == 0
            told = capsys.readouterr().out.splitlines()
            digests |= {line for line in told if line.startswith("  data: ")}
        assert main(["site", "check", str(path), str(yaml), "data.image_size=3"]) == 2
    assert "data.image_size" in capsys.readouterr().err
    assert len(digests) == 3


# Errors


def test_an_error_stands_in_the_log_whole_under_its_number(tmp_path: Path) -> None:
    log = tmp_path / "a" / "log"
    before = os.umask(0)
    try:
        numbers = [report(log, f"broken: Ann Smith {n}.png\n  line 2\x1b[31m") for n in range(3)]
    finally:
        os.umask(before)

    text = (log / FILE).read_text()
    assert len(set(numbers)) == 3
    for n, number in enumerate(numbers):
        assert int(number, 16) < 2**32
        assert f" error {number}\nbroken: Ann Smith {n}.png\n  line 2?[31m\n" in text
    assert (mode(log), mode(log / FILE)) == (0o700, 0o600)


def test_an_error_that_cannot_be_logged_is_on_the_standard_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "log").write_text("not a folder")

    number = report(tmp_path / "log", "broken: Ann Smith.png")

    said = capsys.readouterr()
    assert "broken: Ann Smith.png" in said.err
    assert number in said.err
    assert said.out == ""


# What a site keeps

SETTINGS = from_yaml("name: pets\ndata: {root: /srv/images}\n")
SUMMARY = {"name": "pets", "test_accuracy": 0.5, "rounds": 2, "algorithm_seconds": {"total": 1.0}}


def found(seed: int) -> tuple[str, dict[str, torch.Tensor]]:
    """Return a genotype as JSON and weights of its network."""
    cell = (
        [[["skip_connect", 0], ["sep_conv_3x3", 1]]],
        [[["avg_pool_3x3", 0], ["skip_connect", 1]]],
    )
    tree = {
        "format": "fedmetanas-genotype-1",
        "in_channels": 1,
        "classes": 10,
        "channels": 4,
        "layers": 2,
    }
    text = json.dumps(tree | {"norm": "group", "normal": cell[0], "reduce": cell[1]})
    network = Genotype.from_json(text).network()
    return text, initial_weights(network, torch.Generator().manual_seed(seed))


def test_what_is_kept_is_read_like_a_run(tmp_path: Path) -> None:
    results = tmp_path / "a" / "results"
    before = os.umask(0)
    try:
        for seed in (0, 1):  # the second replaces the first
            folder = site_folder.keep(results, "pets-1", SETTINGS, *found(seed), SUMMARY)
    finally:
        os.umask(before)

    read = run_folder.read(folder)
    assert folder == results / "pets-1"
    assert read.settings == SETTINGS
    weights = found(1)[1]
    for name, tensor in read.network.named_parameters():
        assert torch.equal(tensor, weights[name])
    assert run_folder.read_summary(folder) == SUMMARY
    assert [mode(path) for path in (results, folder)] == [0o700, 0o700]
    assert {mode(path) for path in folder.iterdir()} == {0o600}
    assert os.listdir(results) == ["pets-1"]


@pytest.mark.parametrize("name", ["", "..", "a/b", "/etc", "-rf", ".pets", "a" * 101, "a\n", "ä"])
def test_no_name_from_the_network_leads_elsewhere(name: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="letters, digits and -"):
        site_folder.keep(tmp_path, name, SETTINGS, *found(0), SUMMARY)

    assert os.listdir(tmp_path) == []


def test_nothing_of_others_is_replaced(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "link").symlink_to(elsewhere)
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "notes.txt").write_text("mine")

    for name in ("link", "file", "folder"):
        with pytest.raises(SettingsError, match="is there already"):
            site_folder.keep(tmp_path, name, SETTINGS, *found(0), SUMMARY)

    assert os.listdir(elsewhere) == []
    assert (tmp_path / "folder" / "notes.txt").read_text() == "mine"
    assert sorted(os.listdir(tmp_path)) == ["elsewhere", "file", "folder", "link"]


def test_a_failed_delivery_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = site_folder.keep(tmp_path, "pets", SETTINGS, *found(0), SUMMARY)
    text, weights = found(1)

    with pytest.raises(GenotypeError, match="weights are not those"):
        site_folder.keep(tmp_path, "pets", SETTINGS, text, dict([*weights.items()][1:]), SUMMARY)
    with pytest.raises(GenotypeError):
        site_folder.keep(tmp_path, "pets", SETTINGS, "{}", weights, SUMMARY)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(site_folder, "write_network", full)
        with pytest.raises(UnwritableError, match="No space left"):
            site_folder.keep(tmp_path, "pets", SETTINGS, text, weights, SUMMARY)
    kept, wanted = run_folder.read(folder).network, found(0)[1]
    for name, tensor in kept.named_parameters():
        assert torch.equal(tensor, wanted[name])
    assert os.listdir(tmp_path) == ["pets"]


# Being a site: with a program in the place of Flower's

FAKE = """\
#!{python}
import json, os, sys
with open({record!r}, "a") as file:
    print(json.dumps([sys.argv[1:], dict(os.environ), os.umask(0)]), file=file)
turn = len(open({record!r}).readlines()) - 1
{script}
"""
REFUSED = (
    'print("\\x1b[91mERROR \\x1b[0m: Exit Code: 305\\nFailed.\\n[code: 2004] No."); sys.exit(1)'
)
ACCEPTED = 'print("\\x1b[92mINFO \\x1b[0m: SuperNode ID: 17")'


class Fake:
    """A program in the place of flower-supernode, and what it was started with."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.programs, self.record = folder / "programs", folder / "record"
        self.programs.mkdir()
        monkeypatch.setattr(supernode, "PROGRAMS", self.programs)

    def does(self, script: str) -> None:
        path = self.programs / "flower-supernode"
        path.write_text(FAKE.format(python=sys.executable, record=str(self.record), script=script))
        path.chmod(0o700)

    @property
    def starts(self) -> list[list[object]]:
        return [json.loads(line) for line in self.record.read_text().splitlines()]


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    return Fake(tmp_path, monkeypatch)


def options(words: list[str]) -> dict[str, str]:
    """Return the options of a command line that have a value, by their names."""
    return {word: value for word, value in pairwise(words) if word[:2] == "--"}


def played(site: SiteFile) -> tuple[Exception, list[float]]:
    """Be a site until it is refused; return the error and the seconds that it waited."""
    waits: list[float] = []
    with pytest.raises((SettingsError, RunError)) as caught:
        supernode.play(site, waits.append)
    assert len(str(caught.value).splitlines()) == 1
    assert str(caught.value) in (site.log / FILE).read_text()
    return caught.value, waits


def test_what_is_set_by_the_person_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLWR_HOME", "/srv/flower")
    monkeypatch.setenv("OMP_NUM_THREADS", "4")

    environment = supernode.environment(site_of(tmp_path))

    assert (environment["FLWR_HOME"], environment["OMP_NUM_THREADS"]) == ("/srv/flower", "4")


def test_what_a_supernode_is_started_with(
    folder: Path, fake: Fake, monkeypatch: pytest.MonkeyPatch, authority: Authority
) -> None:
    monkeypatch.setenv("FLWR_TELEMETRY_ENABLED", "1")
    monkeypatch.setenv("OF_THE_PERSON", "kept")
    monkeypatch.delenv("FLWR_HOME", raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    fake.does(REFUSED)
    node_key(folder / "n.key")
    with server(authority.server()) as superlink:
        changes = {"root_certificates": str(authority.path), "key": "n.key"}
        site = site_of(folder, superlink=superlink, disclose="counts", **changes)
        played(site)

    (words, environment, umask), *_ = fake.starts
    assert isinstance(words, list)
    assert isinstance(environment, dict)
    own = options(words)
    assert own["--superlink"] == superlink
    assert own["--root-certificates"] == str(authority.path)
    assert own["--auth-supernode-private-key"] == f"{folder}/n.key"
    assert own["--node-config"] == (
        f'site="north" data-path="{folder}/images" disclose="counts" log="{folder}/log" '
        f'results="{folder}/results" device="cpu"'
    )
    assert "--insecure" not in words
    own_programs, others, *_ = environment["PATH"].split(os.pathsep)
    assert os.listdir(own_programs) == ["flower-superexec"]
    assert others == str(fake.programs)
    for name, value in {
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "OMP_NUM_THREADS": "1",
        "OF_THE_PERSON": "kept",
        "FLWR_HOME": f"{folder}/log/flower",
    }.items():
        assert environment[name] == value
    assert umask == 0o077


def test_flower_reads_the_node_config_as_it_was_meant(folder: Path) -> None:
    from flwr.common.config import parse_config_args

    odd = folder / "it's a=b [x] ü #1"
    odd.mkdir()
    site = site_of(odd)

    config = parse_config_args([options(supernode.command(site))["--node-config"]])

    assert config == {
        "site": "north",
        "data-path": f"{odd}/images",
        "disclose": "none",
        "log": f"{odd}/log",
        "results": f"{odd}/results",
        "device": "cpu",
    }


def test_a_refused_site_tries_once_more_and_names_the_key(
    folder: Path, fake: Fake, authority: Authority, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.does(REFUSED)
    node_key(folder / "n.key")
    with server(authority.server()) as superlink:
        changes = {"root_certificates": str(authority.path), "key": "n.key"}
        error, waits = played(site_of(folder, superlink=superlink, **changes))

    assert waits == [70.0]
    assert len(fake.starts) == 2
    assert f"does not accept the key {folder}/n.key" in str(error)
    said = capsys.readouterr().out
    assert "an old session of north may still be open" in said
    assert "ERROR : Exit Code: 305" in said  # Flower's own words, without colours


def test_a_site_that_lost_its_connection_starts_again(
    folder: Path, fake: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    lost = 'print("Exit Code: 305\\nThe handshake timed out"); sys.exit(1)'
    turns = f"if turn in (0, 3): {ACCEPTED}\nelif turn == 1: {lost}\nelse: {REFUSED}"
    fake.does(turns)
    with server() as superlink:
        error, waits = played(site_of(folder, superlink=superlink))

    assert waits == [10.0, 10.0, 70.0, 10.0, 70.0]
    assert len(fake.starts) == 6
    assert capsys.readouterr().out.count("north: joined; ") == 2  # in turns 0 and 3
    assert "refuses this site; see Flower's words" in str(error)


def test_a_supernode_that_gave_up_but_does_not_end_is_ended(folder: Path, fake: Fake) -> None:
    serving = "import threading, time; threading.Thread(target=time.sleep, args=(99,)).start()"
    fake.does(f"{serving}\nif turn: sys.exit(3)\n{ACCEPTED}")
    with server() as superlink:
        error, waits = played(site_of(folder, superlink=superlink))

    assert (type(error), waits) == (RunError, [10.0])


def test_a_missing_key_is_told_from_an_unknown_one(folder: Path, fake: Fake) -> None:
    fake.does(REFUSED.replace("2004", "2001"))
    with server() as superlink:
        error, waits = played(site_of(folder, superlink=superlink))

    assert waits == []
    assert "wants a key; set key" in str(error)


def test_a_supernode_that_fails_by_itself_is_no_refusal(folder: Path, fake: Fake) -> None:
    fake.does("sys.exit(3)")
    with server() as superlink:
        error, waits = played(site_of(folder, superlink=superlink))

    assert (type(error), waits, len(fake.starts)) == (RunError, [], 1)
    assert f"see {folder}/log/site.log" in str(error)


def test_nothing_is_started_where_something_is_wrong(folder: Path, fake: Fake) -> None:
    fake.does(ACCEPTED)
    with server(answer=b"220 mail\r\n") as superlink:
        assert "is no SuperLink" in str(played(site_of(folder, superlink=superlink))[0])
    (folder / "images").rename(folder / "gone")
    assert "is no folder" in str(played(site_of(folder))[0])

    assert not fake.record.exists()


def test_why_there_is_no_connection_is_said_while_flower_tries(
    folder: Path, fake: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.does('for _ in range(3): print("Connection attempt failed, retrying in 1 seconds")')
    with server() as superlink:
        pass

    played(site_of(folder, superlink=superlink))

    lines = capsys.readouterr().out.splitlines()
    assert [f"nothing listens at {superlink}" in line for line in lines].count(True) == 2
    assert any(line.endswith("trying again until it answers") for line in lines)


WAITING = """
import signal, time
signal.signal(signal.SIGTERM, lambda *_: (print("ended in good order", flush=True), sys.exit(0)))
print("INFO : SuperNode ID: 17", flush=True)
time.sleep(99)
"""
CHILD = """
import subprocess
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(99)"])
"""


@contextmanager
def started(folder: Path, fake: Fake) -> Iterator["subprocess.Popen[str]"]:
    """Start a site with the command line, until it is accepted."""
    program = f"""
    from pathlib import Path
    from fedmetanas.experiments import entry
    from fedmetanas.experiments.sites import supernode
    supernode.PROGRAMS = Path({str(fake.programs)!r})
    entry.start("fedmetanas.experiments.commands.main", "main",
                ["site", "start", {str(folder / "site.toml")!r}])
    """
    with server() as superlink:
        site_toml(folder, superlink=superlink)
        with subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(program)],
            env={**os.environ, "RUN_OF_THE_TEST": str(folder)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout is not None
            assert any("SuperNode ID" in line for line in process.stdout)
            yield process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_site_leaves_nothing_running(number: int, folder: Path, fake: Fake) -> None:
    fake.does(CHILD + WAITING)
    with started(folder, fake) as process:
        process.send_signal(number)
        said, errors = process.communicate(timeout=60)

    assert process.returncode == 128 + number
    assert "ended in good order" in said
    assert errors == "\nfedmetanas: stopped\n"
    assert left_over(str(folder)) == []


def test_a_killed_site_takes_its_supernode_along(folder: Path, fake: Fake) -> None:
    fake.does(WAITING)
    with started(folder, fake) as process:
        process.kill()

    assert left_over(str(folder)) == []


# With Flower itself


@pytest.fixture
def real_server(folder: Path, authority: Authority) -> Iterator[tuple[str, Path]]:
    """A server that wants keys; yield its address and the key that it knows."""
    certificate, private = authority.server()
    superlink = f"127.0.0.1:{free_port()}"
    (folder / "config.toml").write_text(
        f'[superlink.own]\naddress = "{superlink}"\nroot-certificates = "{authority.path}"\n'
    )
    environment = {
        **os.environ,
        "FLWR_HOME": str(folder),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
    }

    def flower(program: str, *words: object) -> "subprocess.Popen[bytes]":
        return subprocess.Popen([str(BIN / program), *map(str, words)], env=environment)

    own = ("--ssl-certfile", certificate, "--ssl-keyfile", private)
    own += ("--ssl-ca-certfile", authority.path, "--enable-supernode-auth")
    port = superlink.rpartition(":")[2]
    link = flower("flower-superlink", "--port", port, *own, "--database", folder / "link.db")

    def up() -> bool:
        try:
            return bool(connect(superlink, authority.path))
        except NobodyThereError:
            return False

    try:
        wait_for(up, "the server")
        key = node_key(folder / "known.key")
        registered = flower("flwr", "supernode", "register", key.with_suffix(".pub"), "own")
        assert registered.wait() == 0
        yield superlink, key
    finally:
        link.terminate()
        link.wait(30)


@pytest.mark.soak
def test_a_real_server_refuses_other_keys_and_takes_a_crashed_site_back(
    folder: Path,
    authority: Authority,
    real_server: tuple[str, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    superlink, key = real_server
    monkeypatch.setenv("RUN_OF_THE_TEST", str(folder))
    changes = {"superlink": superlink, "root_certificates": str(authority.path)}
    assert "wants a key" in str(played(site_of(folder, **changes))[0])
    node_key(folder / "unknown.key")
    error, waits = played(site_of(folder, key="unknown.key", **changes))
    assert "does not accept the key" in str(error)
    assert waits == [70.0]

    site = site_of(folder, key=key.name, **changes)
    log = site.log / FILE
    log.unlink()
    for starts in (1, 2):
        words = [str(BIN / "fedmetanas"), "site", "start", str(folder / "site.toml")]
        process = subprocess.Popen(words)
        wait_for(lambda n=starts: log.exists() and log.read_text().count("SuperNode ID") == n, "it")
        if starts == 1:
            for number in (*of_processes(str(folder), supernodes), str(process.pid)):
                os.kill(int(number), signal.SIGKILL)
            process.wait()
            assert left_over(str(folder)) == []
    process.terminate()

    assert process.wait(30) == 128 + signal.SIGTERM
    assert log.read_text().count("may still be open") == 1
    assert left_over(str(folder)) == []


def supernodes(folder: Path) -> list[str]:
    """Return the number of a process that is a SuperNode."""
    return [folder.name] if b"flower-supernode" in (folder / "cmdline").read_bytes() else []
