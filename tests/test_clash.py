"""Other code where a run is started: of the same names as ours, or another copy of this project."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import tiny
from flwr.app import ConfigRecord, Error, Message, MessageType, MetricRecord, RecordDict
from test_run import (  # noqa: F401
    BIN,
    ROOT,
    TINY,
    assert_same_result,
    environment,
    inline,
    stop_superlinks,
)

import fedmetanas
from fedmetanas.client import app as client_app
from fedmetanas.errors import SettingsError
from fedmetanas.experiments.code_digest import (
    DIGEST,
    PACKAGES,
    digest_of,
    refuse_other_package,
)
from fedmetanas.experiments.commands.main import main
from fedmetanas.experiments.engines.apps import AppByName
from fedmetanas.experiments.engines.inline import InlineGrid
from fedmetanas.server.replies import BadReplyError, OtherCodeError, checked
from fedmetanas.strategies import wire

NAMES = (*PACKAGES, "tests", "examples")


def put_other_code(folder: Path, form: str, names: Iterable[str] = NAMES) -> None:
    """Put modules or packages into a folder that nobody may import: if all do no harm, each does.

    Each is what a person could have there.
    """
    for name in names:
        path = folder / (f"{name}.py" if form == "file" else f"{name}/__init__.py")
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"raise ImportError('{name} of somebody else')")


def test_the_matrix_has_all_our_folders() -> None:
    ours = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert ours - {"fedmetanas"} <= set(NAMES)


COMMANDS = {
    "script": ["fedmetanas", "run", "digits", *TINY.split(), "--engine", "inline", "--out", "out"],
    "script with Ray": ["fedmetanas", "run", "digits", *TINY.split(), "--out", "out"],
    "module": ["python", "-m", "fedmetanas", "run", "digits", *TINY.split(), "--out", "out"],
    "PYTHONPATH": ["fedmetanas", "run", "digits", *TINY.split(), "--out", "out"],
    "compare": [
        *("fedmetanas", "compare", "digits", *TINY.replace("seed=3", "").split()),
        *("--seeds", "3", "--strategies", "fedmetanas", "--engine", "inline", "--out", "compared"),
    ],
    "bench": ["fedmetanas", "bench", "step", "--batch-size", "2", "--repeats", "1"],
    "flwr run": ["flwr", "run", str(ROOT), "--stream", "--run-config"],
}


def run_amid(
    name: str,
    form: str,
    variables: dict[str, str],
    folder: Path,
) -> "subprocess.CompletedProcess[str]":
    """Run a command in a folder of other code."""
    put_other_code(folder, form)
    program, *arguments = COMMANDS[name]
    variables = {**variables, "RUN_OF_THE_TEST": str(folder)}
    if name == "PYTHONPATH":
        variables["PYTHONPATH"] = "."
    if name == "flwr run":
        arguments.append(f'experiment="digits" overrides="{TINY}" out="{folder / "out"}"')
        variables |= {
            "FLWR_LOCAL_SUPERLINK_HTTP_API_PORT": "39391",
            "FLWR_LOCAL_CONTROL_API_PORT": "39393",
        }
    try:
        return subprocess.run(
            [str(BIN / program), *arguments],
            env=variables,
            cwd=folder,
            text=True,
            capture_output=True,
            timeout=300,
        )
    finally:
        stop_superlinks(str(folder))


@pytest.mark.soak
@pytest.mark.parametrize("form", ["file", "package"])
@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_runs_our_code_amid_that_of_somebody_else(
    name: str,
    form: str,
    inline: Path,  # noqa: F811
    environment: dict[str, str],  # noqa: F811
    tmp_path: Path,
) -> None:
    done = run_amid(name, form, environment, tmp_path)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "somebody else" not in done.stdout + done.stderr
    if name == "compare":
        assert_same_result(inline, tmp_path / "compared" / "fedmetanas" / "seed-3")
    elif name != "bench":
        assert_same_result(inline, tmp_path / "out")


def test_a_module_is_run_amid_the_files_of_somebody_else(
    inline: Path,  # noqa: F811
    environment: dict[str, str],  # noqa: F811
    tmp_path: Path,
) -> None:
    """Python puts the current folder before all others then; the soak test has the other ways."""
    put_other_code(tmp_path, "file")
    arguments = ["-m", "fedmetanas", "run", "digits", *TINY.split(), "--engine", "inline"]

    done = subprocess.run(
        [sys.executable, *arguments, "--out", "out"],
        env={**environment, "PYTHONPATH": "."},
        cwd=tmp_path,
        text=True,
        capture_output=True,
        timeout=300,
    )

    assert done.returncode == 0, done.stderr
    assert_same_result(inline, tmp_path / "out")


# The digest of the code


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """This project as it lies in a wheel: one package with all others inside."""
    package = tmp_path / "fedmetanas"
    shutil.copytree(ROOT / "fedmetanas", package)
    for name in PACKAGES:
        shutil.copytree(ROOT / name, package / name)
    return package


def test_a_checkout_and_a_wheel_of_it_have_the_same_digest(copy: Path) -> None:
    assert digest_of(fedmetanas.__path__) == digest_of([str(copy)]) == DIGEST


@pytest.mark.parametrize("name", ["errors.py", "client/app.py", "search_space/kernels/sums.py"])
def test_any_change_of_the_code_changes_the_digest(name: str, copy: Path) -> None:
    with (copy / name).open("a") as file:
        file.write("\n")

    assert digest_of([str(copy)]) != DIGEST


def test_a_file_more_or_of_another_name_changes_the_digest(copy: Path) -> None:
    (copy / "client" / "more.py").touch()
    more = digest_of([str(copy)])
    (copy / "client" / "more.py").rename(copy / "client" / "less.py")

    assert len({more, digest_of([str(copy)]), DIGEST}) == 3


def test_what_is_no_code_of_ours_does_not_change_the_digest(copy: Path) -> None:
    os.symlink("nobody@nowhere", copy / "client" / ".#app.py")  # as an editor leaves it
    (copy / "client" / "notes.txt").touch()
    (copy.parent / "setup.py").touch()

    assert digest_of([str(copy), str(copy.parent)]) == DIGEST


@pytest.mark.parametrize("stage", [MessageType.TRAIN, MessageType.EVALUATE, MessageType.QUERY])
@pytest.mark.parametrize("code", [{"code": "0" * 64}, {"code": 1}, {}])
def test_a_reply_of_other_code_ends_the_run_whatever_was_asked(
    stage: str, code: dict[str, str | int]
) -> None:
    InlineGrid(AppByName("", {}), tiny.context_of({}))  # messages are made where there is a run
    arrays = wire.to_record({"weights/w": np.ones(2, np.float32)})
    asked = Message(RecordDict({"arrays": arrays, "config": ConfigRecord()}), 3, stage)
    metrics = MetricRecord({"measured-in-another-way": 1})
    reply = Message(RecordDict({"m": metrics, "c": ConfigRecord(code)}), reply_to=asked)

    with pytest.raises(OtherCodeError, match="client 3 runs another version of fedmetanas"):
        checked(reply, asked, 100)


@pytest.mark.parametrize(
    ("code", "kind", "words"),
    [("0" * 64, OtherCodeError, "another version"), (DIGEST, BadReplyError, "^KeyError: 'gone'$")],
)
def test_other_code_that_raises_is_named_as_such(
    code: str, kind: type[Exception], words: str
) -> None:
    InlineGrid(AppByName("", {}), tiny.context_of({}))  # messages are made where there is a run
    asked = Message(RecordDict({"config": ConfigRecord()}), 3, MessageType.TRAIN)
    raised = f"{code}\nTraceback (most recent call last):\n  ...\nKeyError: 'gone'\n"
    reply = Message(Error(wire.RAISED, raised), reply_to=asked)

    with pytest.raises(kind, match=words):
        checked(reply, asked, 100)


@pytest.mark.parametrize("handler", ["train", "evaluate"])
def test_a_client_of_another_version_ends_the_run_by_name(
    handler: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    ours = client_app._reply

    def reply(message: Message, *rest: object) -> Message:
        config = next(iter(message.content.config_records.values()))
        other = config["partition-id"] == 2 and message.metadata.message_type == handler
        monkeypatch.setattr(client_app, "DIGEST", "another" if other else DIGEST)
        return ours(message, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(client_app, "_reply", reply)
    settings = tmp_path / "tiny.yaml"
    settings.write_text(tiny.YAML)

    code = main(["run", str(settings), "--engine", "inline", "--out", str(tmp_path / "out")])

    assert code == 1
    errors = capsys.readouterr().err.splitlines()
    assert errors[0].startswith("fedmetanas: client 2 runs another version of fedmetanas than")
    assert "fedmetanas run --resume" in errors[1]
    assert len(errors) == 2
    assert not (tmp_path / "out" / "summary.json").exists()


# A package of our name where Ray's workers would take it


def test_another_package_of_our_name_is_refused_and_ours_is_not(tmp_path: Path, copy: Path) -> None:
    refuse_other_package(ROOT)
    refuse_other_package(copy.parent)
    (tmp_path / "namespace" / "fedmetanas").mkdir(parents=True)
    refuse_other_package(tmp_path / "namespace")  # Python looks further

    (copy / "client" / "app.py").write_text("")
    for form in ("file", "package"):
        (tmp_path / form).mkdir()
        put_other_code(tmp_path / form, form, ["fedmetanas"])
    for folder in (copy.parent, tmp_path / "file", tmp_path / "package"):
        with pytest.raises(SettingsError) as refused:
            refuse_other_package(folder)
        assert str(refused.value).startswith(f"{folder / 'fedmetanas'}")
        assert "start in another folder" in str(refused.value)
