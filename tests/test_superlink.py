"""A run on a SuperLink, from the command that submits it; Flower's own program is a stub here.

The real one is in test_superlink_real.py.
"""

import json
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hatchling.builders.wheel import WheelBuilder

import fedmetanas
from fedmetanas.errors import SettingsError
from fedmetanas.experiments.code_digest import DIGEST, digest_of
from fedmetanas.experiments.commands.main import main
from fedmetanas.experiments.engines import flower_program, superlink
from fedmetanas.experiments.engines.flower_app import make_app
from fedmetanas.experiments.results import on_superlink, run_folder
from fedmetanas.experiments.settings import from_yaml, load
from fedmetanas.server import app

ROOT = Path(__file__).parents[1]
SUMMARY = '{"test_accuracy": 0.5, "rounds": 1, "algorithm_seconds": {"total": 1.0}}'
RUN_ID = "17"

#: It notes its arguments and what lies at the paths in them, then gives the next answer in a file.
STUB = """
import json, os, pathlib, signal, sys, time
here = pathlib.Path(__file__).parent
command, *rest = sys.argv[1:]
seen = {"command": command, "arguments": rest}
if command == "run":
    app = pathlib.Path(rest[0])
    seen["app"] = sorted(str(path.relative_to(app)) for path in app.rglob("*") if path.is_file())
    seen["run-config"] = pathlib.Path(rest[rest.index("--run-config") + 1]).read_text()
    if (here / "interrupts").exists():
        os.kill(os.getppid(), signal.SIGINT)
    seen["noted"] = [path.read_text() for path in here.glob("*/run.json")]
if command == "log" and (here / "slow").exists():
    (here / "slow").unlink()
    time.sleep(0.5)
with (here / "calls").open("a") as calls:
    print(json.dumps(seen), file=calls)
answers = json.loads((here / "answers").read_text())
answer = answers[command].pop(0) if len(answers[command]) > 1 else answers[command][0]
(here / "answers").write_text(json.dumps(answers))
print(answer if command == "log" else json.dumps(answer), end="")
"""


def status(state: str, details: str = "N/A") -> dict[str, Any]:
    return {"success": True, "runs": [{"status": state, "status-details": details}]}


COMPLETED, RUNNING = status("finished:completed"), status("running")
AWAY = {"success": False, "error-message": "Using SuperLink: far\n\nIt is unavailable."}
SAID = "round 1/1  loss 1.000\nresults: /there/{name}\n"


def traceback(kind: str, message: str, before: str = "") -> str:
    """What Flower shows of a ServerApp that raised."""
    return (
        "\x1b[92mINFO \x1b[0m:      Start `flwr-serverapp` process\n"
        f"{before}"
        "\x1b[91mERROR \x1b[0m:     ServerApp raised an exception\n"
        "Traceback (most recent call last):\n"
        '  File "run_serverapp.py", line 221, in run_serverapp\n'
        "    context = run_(\n"
        "              ^^^^^\n"
        f"{kind}: {message}\n"
        "\x1b[91mERROR \x1b[0m:     Exit Code: 201\n\n"
        "An unhandled exception occurred in the ServerApp.\n"
    )


@dataclass
class Flower:
    """Flower's program, and what it was asked."""

    folder: Path
    results: Path

    def answers(self, **answers: list[Any]) -> None:
        run = {"success": True, "run-id": RUN_ID}
        given = {"run": [run], "ls": [COMPLETED], "log": [""], "stop": [run]}
        (self.folder / "answers").write_text(json.dumps(given | answers))

    def calls(self, command: str) -> list[dict[str, Any]]:
        path = self.folder / "calls"
        calls = (
            [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        )
        return [call for call in calls if call["command"] == command]

    def completes(self) -> None:
        """Put results where a server writes them: the folder of the run that was submitted."""
        name = on_superlink.read(self.folder / "out").name
        there = self.results / name
        (there / "checkpoints").mkdir(parents=True)
        (there / "checkpoints" / "round-00001.safetensors").touch()
        (there / "metrics.jsonl").write_text('{"round": 1}\n')
        (there / "summary.json").write_text(SUMMARY)


@pytest.fixture
def flower(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Flower:
    (tmp_path / "flwr.py").write_text(STUB)
    (tmp_path / "config.toml").write_text(
        '[superlink]\ndefault = "far"\n[superlink.far]\naddress = "fl.example.org:8101"\n'
        '[superlink.near]\naddress = "127.0.0.1:8101"\n'
    )
    monkeypatch.setattr(flower_program, "FLWR", (sys.executable, str(tmp_path / "flwr.py")))
    monkeypatch.setattr(superlink, "PAUSE", 0.0)
    monkeypatch.setenv("FLWR_HOME", str(tmp_path))
    monkeypatch.setenv("FEDMETANAS_RESULTS", str(tmp_path / "there"))
    monkeypatch.chdir(tmp_path)
    stub = Flower(tmp_path, tmp_path / "there")
    stub.answers()
    return stub


def start(*more: str) -> int:
    return main(["run", "digits", "--engine", "superlink", "--superlink", "far", *more])


def resume(*more: str) -> int:
    return main(["run", "--resume", "out", "--engine", "superlink", *more])


# What is sent


def test_settings_and_a_plain_name_are_sent_and_noted_before(flower: Flower) -> None:
    assert start("rounds=3", "--out", "out", "--detach") == 0

    (call,) = flower.calls("run")
    sent = tomllib.loads(call["run-config"])
    assert sent.keys() == {"settings", "name", "resume", "accept-changed"}
    assert from_yaml(sent["settings"]) == load("digits", ["rounds=3"])
    assert re.fullmatch(r"out-\d{4}-\d\d-\d\d-\d{6}", sent["name"])
    assert (sent["resume"], sent["accept-changed"]) == (False, "")
    assert [json.loads(text)["name"] for text in call["noted"]] == [sent["name"]]
    noted = on_superlink.read(flower.folder / "out")
    assert noted == on_superlink.OnSuperLink("far", sent["name"], RUN_ID, False)
    assert call["arguments"][1] == "far"


def test_a_name_is_made_plain() -> None:
    plain = on_superlink.name_of("../Über uns_2/" + "x" * 200)

    assert on_superlink.NAME.fullmatch(plain)
    assert plain.startswith("ber-uns-2-xxx")
    assert on_superlink.NAME.fullmatch(on_superlink.name_of("///"))


def test_paths_of_this_machine_stay_here(
    flower: Flower, capsys: pytest.CaptureFixture[str]
) -> None:
    assert start("data.root=/srv/mine", "data.cache=/srv/cache", "--detach") == 0

    assert "/srv" not in flower.calls("run")[0]["run-config"]
    said = capsys.readouterr().err
    assert "data.root: not sent" in said
    assert "data.cache: not sent" in said


def test_the_app_is_the_package_that_runs_here_and_its_bundle_is_whole(tmp_path: Path) -> None:
    folder = tmp_path / "fedmetanas"
    folder.mkdir()

    make_app(folder)

    paths = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    assert {path.suffix for path in paths} == {".py", ".yaml", ".toml"}
    assert {path.parts[0] for path in paths} == {"pyproject.toml", "fedmetanas"}
    build = [*flower_program.FLWR, "build", "--app", str(folder)]
    subprocess.run(build, cwd=tmp_path, check=True, capture_output=True)
    (bundle,) = tmp_path.glob("*.fab")
    with zipfile.ZipFile(bundle) as archive:
        archive.extractall(tmp_path / "bundle")
    assert digest_of([str(tmp_path / "bundle" / "fedmetanas")]) == DIGEST
    shipped = {path.name for path in (ROOT / "experiments").glob("*.yaml")}
    assert shipped == {p.name for p in (tmp_path / "bundle").rglob("experiments/*.yaml")}


def test_a_wheel_makes_the_same_app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (wheel,) = WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.setattr(fedmetanas, "__path__", [str(tmp_path / "site" / "fedmetanas")])
    folder = tmp_path / "app"
    folder.mkdir()

    make_app(folder)

    assert (folder / "pyproject.toml").read_text() == (ROOT / "pyproject.toml").read_text()
    assert digest_of([str(folder / "fedmetanas")]) == DIGEST


def test_what_is_not_for_this_command_is_refused(
    flower: Flower, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments, words in (
        (["run", "digits", "--superlink", "far"], "--superlink is for --engine superlink"),
        (["run", "digits", "--detach"], "--detach is for --engine superlink"),
        (["run", "digits", "--engine", "superlink"], "--superlink: name a connection"),
        (["run", "digits", "--engine", "superlink", "--superlink", "fra"], "'fra'; did you mean"),
        (["attach", "nowhere"], "not the folder of a run on a SuperLink"),
    ):
        assert main(arguments) == 2
        assert words in capsys.readouterr().err
    assert start("--accept-changed", "north") == 2
    assert "--resume DIR" in capsys.readouterr().err
    assert start("rounds=0") == 2
    for config, words in (("[superlink", "not TOML"), ("x = 1", "there is none")):
        (flower.folder / "config.toml").write_text(config)
        capsys.readouterr()
        assert start() == 2
        assert words in capsys.readouterr().err
    assert flower.calls("run") == []
    assert not (flower.folder / "results").exists()


def test_a_refused_submission_leaves_a_folder_that_can_be_used(
    flower: Flower, capsys: pytest.CaptureFixture[str]
) -> None:
    flower.answers(run=[AWAY])
    assert start("--out", "out") == 2
    assert capsys.readouterr().err == "fedmetanas: flwr run: It is unavailable.\n"
    assert not (flower.folder / "out").exists()

    flower.answers()
    assert start("--out", "out", "--detach") == 0
    assert start("--out", "out", "--detach") == 2
    assert "is not empty" in capsys.readouterr().err


# What becomes of it


def follow(
    flower: Flower,
    state: dict[str, Any],
    log: str,
    completes: bool = True,
    then: Sequence[dict[str, Any]] = (),
) -> int:
    """Submit a run, let it end, and follow it."""
    assert start("--out", "out", "--detach") == 0
    name = on_superlink.read(flower.folder / "out").name
    flower.answers(ls=[state, *then], log=[log.replace("{name}", name)])
    if completes:
        flower.completes()
    return main(["attach", "out"])


def test_the_results_are_brought(flower: Flower, capsys: pytest.CaptureFixture[str]) -> None:
    assert follow(flower, COMPLETED, SAID) == 0

    out = flower.folder / "out"
    assert {path.name for path in out.iterdir()} == {
        *("settings.yaml", "run.json", "metrics.jsonl", "summary.json"),
    }
    assert run_folder.read_summary(out) == json.loads(SUMMARY)
    lines = capsys.readouterr().out.splitlines()
    assert lines[1:] == ["round 1/1  loss 1.000", f"results: {out}"]


@pytest.mark.parametrize(
    ("name", "copies"), [("far", "scp -r 'fl.example.org:{}/*' {}"), ("near", "cp -r {}/. {}")]
)
def test_results_that_cannot_be_seen_can_be_copied(
    name: str, copies: str, flower: Flower, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        main(
            [
                "run",
                "digits",
                "--engine",
                "superlink",
                "--superlink",
                name,
                "--out",
                "out",
                "--detach",
            ]
        )
        == 0
    )
    there = f"/there/{on_superlink.read(flower.folder / 'out').name}"
    flower.answers(log=[f"results: {there}\n"])
    capsys.readouterr()

    assert main(["attach", "out"]) == 0

    assert copies.format(there, flower.folder / "out") in capsys.readouterr().out


@pytest.mark.parametrize(
    ("state", "log", "code", "words", "stays"),
    [
        (COMPLETED, "", 1, "did not complete; go on with: ", True),
        (status("finished:stopped"), "", 1, "was stopped; go on with: ", True),
        (status("finished:failed", "the node died"), "", 1, "the node died", True),
        *(
            (
                status("finished:failed"),
                traceback(f"fedmetanas.{kind}", "why", before),
                code,
                words,
                stays,
            )
            for kind, before, code, words, stays in (
                ("errors.SettingsError", "", 2, "fedmetanas: why\n", False),
                ("errors.StrategyError", "fedmetanas: why\n", 2, "fedmetanas: why\n", False),
                ("errors.UnwritableError", "", 2, "fedmetanas: why\n", True),
                ("server.partition_grid.ClientError", "", 1, "fedmetanas: why\n", True),
            )
        ),
        (status("finished:failed"), traceback("KeyError", "'x'"), 1, "run_serverapp\n", True),
    ],
)
def test_a_run_that_does_not_complete(
    state: dict[str, Any],
    log: str,
    code: int,
    words: str,
    stays: bool,
    flower: Flower,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert follow(flower, state, log, completes=False) == code

    said = capsys.readouterr().err
    assert said.count(words) == 1
    assert ("Traceback" in said) == ("KeyError" in log)
    assert "Exit Code" not in said
    assert (flower.folder / "out").exists() == stays
    assert (f"--resume {flower.folder / 'out'} --engine superlink" in said) == stays


def test_lines_of_flower_are_hidden_and_what_steers_a_terminal_is_not_shown(
    flower: Flower, capsys: pytest.CaptureFixture[str]
) -> None:
    log = (
        "Using SuperLink: far\n"
        "INFO :      Start\n"
        "Successfully installed fedmetanas to /home/somebody/.flwr/apps/x.\n"
        "\x1b[93mWARNING \x1b[0m:   mind the gap\n"
        "WARNING 2026-11-30 12:00:00,123 :   mind the gap\n"
        "results: /etc/passwd\n"
        "\x1b]0;title\x07north left out\n"
    )
    assert follow(flower, COMPLETED, log) == 0

    said = capsys.readouterr()
    assert said.err == "warning: mind the gap\n"
    shown = said.out.splitlines()[1:]
    assert shown == [
        "results: /etc/passwd",
        "?]0;title?north left out",
        f"results: {flower.folder / 'out'}",
    ]


def test_a_connection_that_breaks_is_made_again_and_no_line_shown_twice(
    flower: Flower, capsys: pytest.CaptureFixture[str]
) -> None:
    assert start("--out", "out", "--detach") == 0
    flower.completes()
    flower.answers(log=["a\nb\n", "", "a\nb\nc\n"], ls=[RUNNING, AWAY, COMPLETED])
    capsys.readouterr()

    assert main(["attach", "out"]) == 0

    said = capsys.readouterr()
    assert said.out.splitlines()[:-1] == ["a", "b", "c"]
    assert said.err == "warning: flwr ls: It is unavailable.; asking again for 60 s\n"


def test_a_superlink_that_stays_away_is_given_up(
    flower: Flower, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(superlink, "PATIENCE", 0.2)
    assert start("--out", "out", "--detach") == 0
    flower.answers(ls=[AWAY])

    assert main(["attach", "out"]) == 1

    said = capsys.readouterr().err
    assert f"It is unavailable.; follow it with: fedmetanas attach {flower.folder}" in said
    assert len(flower.calls("ls")) > 1


def test_a_superlink_is_waited_for_from_when_it_is_away(
    flower: Flower, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(superlink, "PATIENCE", 0.4)
    (flower.folder / "slow").touch()

    assert follow(flower, AWAY, "", completes=True, then=[COMPLETED]) == 0


# Ctrl-C


def interrupt(monkeypatch: pytest.MonkeyPatch, answer: Callable[[str], str] | None) -> int:
    """Interrupt a run that is followed, at a terminal where somebody answers, or without one."""

    def interrupted(*arguments: str) -> list[str]:
        raise KeyboardInterrupt

    monkeypatch.setattr(flower_program, "lines", interrupted)
    for stream in (sys.stdin, sys.stdout):
        monkeypatch.setattr(stream, "isatty", lambda: answer is not None)
    monkeypatch.setattr("builtins.input", answer)
    return start("--out", "out")


def test_ctrl_c_without_a_terminal_detaches(
    flower: Flower, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert interrupt(monkeypatch, None) == 130

    words = f"detached, the run goes on; follow it with: fedmetanas attach {flower.folder}/out"
    assert words in capsys.readouterr().err
    assert flower.calls("stop") == []


@pytest.mark.parametrize(("answer", "stops"), [("", False), ("d", False), ("stop", True)])
def test_ctrl_c_at_a_terminal_asks(
    answer: str,
    stops: bool,
    flower: Flower,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert interrupt(monkeypatch, lambda question: answer) == 130

    said = capsys.readouterr().err
    assert [call["arguments"][:2] for call in flower.calls("stop")] == [[RUN_ID, "far"]] * stops
    assert ("stopped; go on with: " in said) == stops
    assert ("fedmetanas attach" in said) != stops


def test_the_signal_that_ends_a_process_asks_nobody(
    flower: Flower, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(superlink, "RECEIVED", [15])

    assert interrupt(monkeypatch, lambda question: "stop") == 130

    assert flower.calls("stop") == []


@pytest.mark.parametrize("answers", [{}, {"run": [AWAY]}])
def test_ctrl_c_while_a_run_is_submitted_waits_for_the_answer(
    answers: dict[str, Any], flower: Flower, capsys: pytest.CaptureFixture[str]
) -> None:
    (flower.folder / "interrupts").touch()
    flower.answers(**answers)

    code = start("--out", "out")

    said, out = capsys.readouterr().err, flower.folder / "out"
    if answers:
        assert (code, out.exists()) == (2, False)
        return
    assert code == 130
    assert f"follow it with: fedmetanas attach {out}" in said
    assert on_superlink.read(out).run_id == RUN_ID
    assert flower.calls("log") == []


# Going on


def test_a_run_goes_on_under_its_name(flower: Flower, capsys: pytest.CaptureFixture[str]) -> None:
    sites = ("sites=[north, south]", "data.dataset=imagefolder", "data.classes=[a, b]")
    assert start("--out", "out", "--detach", *sites) == 0
    before = on_superlink.read(flower.folder / "out")
    flower.answers(run=[{"success": True, "run-id": "18"}], ls=[status("finished:failed")])

    assert resume("--detach", "--accept-changed", "north", "rounds=40") == 0

    sent = tomllib.loads(flower.calls("run")[1]["run-config"])
    assert (sent["name"], sent["resume"], sent["accept-changed"]) == (before.name, True, "north")
    assert from_yaml(sent["settings"]).rounds == 40
    assert on_superlink.read(flower.folder / "out").run_id == "18"
    capsys.readouterr()
    assert resume("--accept-changed", "nroth") == 2
    assert "'nroth' is no site; sites are: north, south" in capsys.readouterr().err


def test_a_refused_run_that_goes_on_keeps_its_folder(flower: Flower) -> None:
    assert start("--out", "out", "--detach") == 0
    before = on_superlink.read(flower.folder / "out")
    failed = status("finished:failed")
    flower.answers(ls=[failed], run=[AWAY])

    assert resume() == 2
    assert on_superlink.read(flower.folder / "out") == before

    flower.answers(ls=[failed], log=[traceback("fedmetanas.errors.SettingsError", "data changed")])
    assert resume() == 2
    assert on_superlink.read(flower.folder / "out").name == before.name


def test_a_run_that_is_at_work_or_has_completed_does_not_go_on(
    flower: Flower, capsys: pytest.CaptureFixture[str]
) -> None:
    assert start("--out", "out", "--detach") == 0
    flower.answers(ls=[RUNNING])

    assert resume() == 2
    assert "is at work; follow it with: fedmetanas attach" in capsys.readouterr().err

    (flower.folder / "out" / "summary.json").write_text(SUMMARY)
    assert resume() == 2
    assert "has completed" in capsys.readouterr().err
    assert len(flower.calls("run")) == 1


def test_no_engine_goes_on_with_what_another_has(
    flower: Flower, capsys: pytest.CaptureFixture[str]
) -> None:
    assert start("--out", "out", "--detach") == 0
    for engine in ("inline", "ray"):
        assert main(["run", "--resume", "out", "--engine", engine]) == 2
        assert "go on with --engine superlink" in capsys.readouterr().err

    (flower.folder / "out" / "run.json").unlink()
    assert resume() == 2
    assert "is not the folder of a run on a SuperLink" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", "{", '{"name": "a"}'),
        '{"superlink": "far", "name": "../a", "run_id": "1", "goes_on": false}',
        '{"superlink": "far", "name": "a", "run_id": "--x", "goes_on": false}',
        '{"superlink": 1, "name": "a", "run_id": "1", "goes_on": false}',
    ],
)
def test_a_damaged_note_is_refused(
    text: str, flower: Flower, capsys: pytest.CaptureFixture[str]
) -> None:
    (flower.folder / "run.json").write_text(text)

    assert main(["attach", "."]) == 2

    assert "run.json is damaged" in capsys.readouterr().err
    assert not (flower.folder / "calls").exists()


# Where a server writes


def test_a_server_writes_where_its_environment_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FEDMETANAS_RESULTS", str(tmp_path / "there"))
    settings, sent = load("digits"), str(tmp_path / "sent")

    named = app.results_folder({"name": "mine", "out": sent}, settings, has_own=True)
    unnamed = app.results_folder({"out": sent}, settings, has_own=True)

    assert named == tmp_path / "there" / "mine"
    assert unnamed.parent == tmp_path / "there"
    assert capsys.readouterr().err.count("out is left out") == 2
    assert not (tmp_path / "sent").exists()
    assert app.results_folder({"name": "mine", "resume": True}, settings, has_own=True) == named
    for name in ("../x", "/x", "a/b", "-x", "x" * 121, "x\n"):
        with pytest.raises(SettingsError, match="name: expected"):
            app.results_folder({"name": name}, settings, has_own=True)


def test_a_simulation_writes_where_it_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDMETANAS_RESULTS", str(tmp_path / "there"))

    told = app.results_folder({"out": str(tmp_path / "out"), "name": ""}, load("digits"), False)

    assert told == tmp_path / "out"
