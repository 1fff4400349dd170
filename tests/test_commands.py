"""The command line: it knows what there is, answers usage at once, and its reference is true."""

import contextlib
import json
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny

import fedmetanas
from fedmetanas.experiments import engines
from fedmetanas.experiments.commands import list as listing
from fedmetanas.experiments.commands import main as command_line
from fedmetanas.experiments.commands import reference
from fedmetanas.experiments.commands.main import main
from fedmetanas.experiments.comparison.variants import read_variants
from fedmetanas.experiments.data import registry
from fedmetanas.experiments.entry import importing
from fedmetanas.experiments.settings import Settings, experiments, from_yaml, known_settings
from fedmetanas.search_space import operations
from fedmetanas.search_space.names import OPERATION_NAMES
from fedmetanas.strategies.registry import STRATEGIES

ROOT = Path(__file__).parents[1]


def said(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    """Return what a command prints, and as an error if it ends with 2."""
    try:
        ended = main([*arguments])
    except SystemExit as exited:  # argparse's way
        ended = int(str(exited.code))
    assert ended == code
    captured = capsys.readouterr()
    assert bool(captured.err) == (code == 2)
    assert len(captured.err.splitlines()) == (code == 2)
    return captured.err if code else captured.out


# What takes no time

AT_ONCE = [
    ["--help"],
    ["--version"],
    ["run", "--help"],
    ["compare", "--help"],
    ["site", "--help"],
    ["settings"],
    ["list", "experiments"],
    ["list", "variants"],
    ["list", "datasets"],
    [],
    ["rum"],
    ["run"],
    ["run", "digit"],
    ["run", "digits", "--ot", "x"],
    ["run", "digits", "--engine", "gpu"],
    ["run", "digits", "rouns=3"],
    ["run", "digits", "rounds=three"],
    ["run", "digits", "search.operations=[conv]"],
    ["run", "digits", "data.dataset=mnists"],
    ["run", "--resume", "nowhere", "rouns=3"],
    ["run", "--resume", "nowhere", "seed=1.5"],
    ["compare", "digits", "--strategies", "fednass"],
    ["compare", "digits", "search.nods=3"],
    ["bench", "nonsense"],
    ["site", "check", "nowhere.toml"],
    ["site", "start", "nowhere.toml"],
    ["settings", "nods"],
]


def test_help_and_errors_of_usage_import_nothing_that_takes_long() -> None:
    program = f"""
import sys
from fedmetanas.experiments.commands.main import main
for arguments in {AT_ONCE}:
    try:
        code = main(arguments)
    except SystemExit as ended:
        code = ended.code
    heavy = {{"torch", "flwr", "ray", "numpy", "matplotlib", "sklearn"}} & sys.modules.keys()
    print("=", code, sorted(heavy), arguments)
"""
    answer = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )

    found = [line for line in answer.stdout.splitlines() if line.startswith("= ")]
    good = AT_ONCE.index([])
    assert found == [f"= {2 * (n >= good)} [] {words}" for n, words in enumerate(AT_ONCE)]
    assert len(answer.stderr.splitlines()) == len(AT_ONCE) - good


# Errors of usage


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["rum"], ["unknown command 'rum'", "did you mean 'run'?", "run, compare, evaluate"]),
        (["zzz"], ["unknown command 'zzz' (commands are run"]),
        ([""], ["unknown command ''"]),
        ([], ["COMMAND", "see fedmetanas --help"]),
        (["run", "digits", "--ot=x"], ["unknown argument '--ot=x'", "did you mean '--out'?"]),
        (["run", "digits", "--rounds", "2"], ["unknown argument '--rounds'; write rounds=2;"]),
        (["run", "digits", "--search.nodes=3"], ["write search.nodes=3;"]),
        (["compare", "digits", "--clients"], ["write clients=VALUE;"]),
        (["evaluate", "x", "--rounds", "2"], ["unknown argument '--rounds'; see"]),
        (["evaluate", "x", "more"], ["unknown argument 'more'", "evaluate --help"]),
        (["draw", "x", "rounds=3"], ["unknown argument 'rounds=3'", "draw --help"]),
        (["run", "digits", "--engine", "rai"], ["--engine", "'rai'", "'inline', 'ray'"]),
        (["compare", "digits", "--s=\x1b[31m\n"], ["ambiguous option", "--seeds"]),
        (["run", "--out", "x", "--resume", "y"], ["--resume", "not allowed with"]),
        (["bench", "--repeats", "0"], ["--repeats", "at least 1", "'0'"]),
        (["run", "\x1b[31m"], ["unknown experiment"]),
        (["run", "digits", "--\x1b[31m\n"], ["unknown argument"]),
        (["settings", "search.nods"], ["did you mean 'search.nodes'?", "search.channels"]),
        (["settings", "nodes"], ["did you mean 'search.nodes'?"]),
        (["settings", "serch"], ["did you mean 'search'?", "rounds"]),
        (["list", "strategy"], ["WHAT", "'strategy'", "strategies"]),
        (["list", "variants", "x"], ["list variants", "'x'", "only runs"]),
        (["list", "runs", "/no/where"], ["/no/where is not a folder"]),
    ],
)
def test_an_error_of_usage_is_one_line(
    arguments: list[str], words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    line = said(capsys, *arguments, code=2)

    assert line.startswith("fedmetanas: ")
    assert line.removesuffix("\n").isprintable()
    assert all(word in line for word in words), line


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, "--version") == f"fedmetanas {fedmetanas.__version__}\n"


def test_help_has_examples_that_can_be_parsed(capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, "--help")

    examples = [line for line in text.splitlines() if line.startswith("  fedmetanas ")]
    assert len(examples) > 3
    for line in examples:
        command_line._parse(line.strip().partition("#")[0].split()[1:])


def test_the_engines_are_those_there_are() -> None:
    assert set(command_line.ENGINES) == set(engines.ENGINES)


# settings


def test_settings_names_each_with_its_meaning_its_default_and_its_range(
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = said(capsys, "settings")

    assert max(map(len, text.splitlines())) <= 80 or "search.operations=[" in text
    shown = [line.partition("=")[0] for line in text.splitlines() if line[:1].islower()]
    assert shown == list(known_settings())
    assert said(capsys, "settings", "search.nodes") in text
    assert said(capsys, "settings", "search.nodes").splitlines() == [
        "search.nodes=2",
        "    Nodes of a cell. Each has two inputs in the network found.",
        "    Allowed: a whole number, from 1 to 30.",
    ]
    assert said(capsys, "settings", "engine") in text
    assert "search" not in said(capsys, "settings", "engine")


def test_what_settings_prints_is_what_can_be_said(capsys: pytest.CaptureFixture[str]) -> None:
    lines = said(capsys, "settings").splitlines()

    overrides = [line for line in lines if line[:1].islower()]

    assert from_yaml("seed: 3", overrides) == Settings()


def test_every_setting_says_what_it_means() -> None:
    abouts = [known.about for known in known_settings().values()]

    assert all(about[0].isupper() and about.endswith(".") for about in abouts)
    assert len(set(abouts)) == len(abouts)


# list


@pytest.mark.parametrize(
    ("what", "names"),
    [
        ("experiments", experiments()),
        ("strategies", STRATEGIES),
        ("variants", read_variants()),
        ("operations", operations.OPERATIONS),
        ("datasets", registry.DATASETS),
    ],
)
def test_a_list_has_a_line_of_words_for_each(
    what: str, names: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    lines = said(capsys, "list", what).splitlines()

    assert [line.split()[0] for line in lines] == list(names)
    assert all(len(line.split()) > 2 or line.split()[0] == "none" for line in lines)
    assert max(map(len, lines)) <= 80
    assert len({line.index(line.split()[1], len(line.split()[0])) for line in lines}) == 1


def test_what_is_registered_later_counts(capsys: pytest.CaptureFixture[str]) -> None:
    @operations.register("other_pool")
    def other_pool(channels: int, stride: int, norm: str) -> object:
        """Another pool."""

    @registry.register("letters")
    def letters(source: object) -> object:
        """Letters."""

    try:
        assert "other_pool  " in said(capsys, "list", "operations")
        assert "letters  " in said(capsys, "list", "datasets")
        found = from_yaml("", ["search.operations=[other_pool]", "data.dataset=letters"])
        assert (found.search.operations, found.data.dataset) == (("other_pool",), "letters")
        assert "other_pool" in said(capsys, "run", "digits", "search.operations=[x]", code=2)
        assert "did you mean 'letters'?" in said(
            capsys, "run", "digits", "data.dataset=let", code=2
        )
    finally:
        del operations.OPERATIONS["other_pool"]
        del registry.DATASETS["letters"], registry.FOLDERS["letters"]
        OPERATION_NAMES.remove("other_pool")


def test_runs_are_found_wherever_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert said(capsys, "list", "runs") == "no runs in results\n"
    done = tmp_path / "results" / "tiny" / "one"
    done.mkdir(parents=True)
    (done / "settings.yaml").write_text(tiny.settings_of("rounds=2").to_yaml())
    (done / "metrics.jsonl").write_text('{"round": 1}\n{"round": 2}\n')
    summary = {"rounds": 2, "test_accuracy": 0.87654, "algorithm_seconds": {"total": 1.0}}
    (done / "summary.json").write_text(json.dumps(summary))
    begun, early, damaged = (
        shutil.copytree(done, tmp_path / "results" / "side-by-side" / name / "seed-0")
        for name in ("begun", "early", "worn")
    )
    for folder in (begun, early):
        (folder / "summary.json").unlink()
    (begun / "metrics.jsonl").write_text('{"round": 1}\n')
    (early / "metrics.jsonl").unlink()
    (damaged / "settings.yaml").write_text("rounds: [")

    text = said(capsys, "list", "runs")

    assert [" ".join(line.split()) for line in text.splitlines()] == [
        "experiment rounds test accuracy state folder",
        "tiny 1 of 2 - not finished results/side-by-side/begun/seed-0",
        "tiny 0 of 2 - not finished results/side-by-side/early/seed-0",
        "? ? - damaged results/side-by-side/worn/seed-0",
        "tiny 2 of 2 0.8765 finished results/tiny/one",
    ]
    assert said(capsys, "list", "runs", "results/tiny").splitlines()[1:] == [
        "tiny        2 of 2  0.8765         finished  results/tiny/one"
    ]


def test_columns_stand_one_below_the_other() -> None:
    assert listing.aligned([("a", "bcd", "e"), ("fg", "h", "")]) == ["a   bcd  e", "fg  h"]


# The reference


@pytest.mark.parametrize(
    ("name", "text"), [("cli", reference.cli), ("settings", reference.settings)]
)
def test_the_pages_made_from_the_code_are_fresh(name: str, text: Callable[[], str]) -> None:
    written = (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")

    assert written == text(), "run `make reference`"


def test_the_pages_have_all_commands_and_all_settings(tmp_path: Path) -> None:
    reference.main(tmp_path)

    _, commands = command_line.parsers()
    titles = (tmp_path / "cli.md").read_text().splitlines()
    found = [line[3:].split()[0] for line in titles if line.startswith("## ")]
    assert list(dict.fromkeys(found)) == list(commands)
    rows = (tmp_path / "settings.md").read_text().splitlines()
    keys = [row.split("`")[1] for row in rows if row.startswith("| `")]
    assert keys == list(known_settings())
    assert {row.count("|") for row in rows if row.startswith("|")} == {5}


# Signals


def test_ctrl_c_ends_an_import_at_once_and_other_signals_wait_for_it() -> None:
    def blocked() -> bool:
        return signal.SIGUSR1 in signal.pthread_sigmask(signal.SIG_BLOCK, ())

    before = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with contextlib.suppress(ImportError), importing():
            assert signal.getsignal(signal.SIGINT) == signal.SIG_DFL
            assert blocked()
            raise ImportError
        assert signal.getsignal(signal.SIGINT) == signal.default_int_handler
        assert not blocked()
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # as in the background of a script
        with importing():
            assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_an_import_in_a_thread_leaves_signals_alone() -> None:
    found = []

    def work() -> None:
        with importing():
            found.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()

    assert found == [signal.getsignal(signal.SIGINT)]
