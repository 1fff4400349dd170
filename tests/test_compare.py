"""`fedmetanas compare`: what it runs, what it does not run again, what it writes."""

import csv
import fcntl
import json
import os
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
from matplotlib.figure import Figure

from fedmetanas.errors import SettingsError, UnwritableError
from fedmetanas.experiments.commands.main import main
from fedmetanas.experiments.comparison.variants import Variant, choose, read_variants
from fedmetanas.experiments.report.plots import draw_curves, mean_curve
from fedmetanas.experiments.report.tables import (
    COLUMNS,
    Column,
    Row,
    Spread,
    to_console,
    to_csv,
    to_json,
    to_markdown,
    write_tables,
)
from fedmetanas.experiments.results.curves import Point, accuracy_at, read_curve, seconds_to
from fedmetanas.experiments.settings import from_yaml, load
from fedmetanas.strategies.registry import make_strategy

PICTURES = ["accuracy-megabytes.png", "accuracy-rounds.png", "accuracy-seconds.png"]
TABLES = ["table.csv", "table.json", "table.md"]


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("experiment") / "tiny.yaml"
    path.write_text(tiny.YAML)
    return str(path)


def compared(experiment: str, out: Path, *arguments: str, seeds: str = "0") -> int:
    command = ["compare", experiment, "rounds=2", "--engine", "inline", "--out", str(out)]
    return main([*command, "--seeds", seeds, *arguments])


@pytest.fixture(scope="module")
def comparison(experiment: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole comparison of two variants; the tests that change it take a copy."""
    out = tmp_path_factory.mktemp("comparison") / "out"
    assert compared(experiment, out, "--strategies", "fedmetanas,fednas") == 0
    return out


@pytest.fixture
def copied(comparison: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(comparison, tmp_path / "out"))


def table_of(out: Path) -> dict[str, Any]:
    rows = json.loads((out / "table.json").read_text())
    return {row["variant"]: row for row in rows}


def files_of(out: Path) -> dict[str, bytes]:
    """Return the files of all runs, with the contents that a second run could not repeat."""
    return {str(p.relative_to(out)): p.read_bytes() for p in out.glob("*/*/*")}


# A comparison


def test_every_column_is_filled(comparison: Path) -> None:
    table = table_of(comparison)

    assert list(table) == ["fedmetanas", "fednas"]
    for row in table.values():
        assert row["missing_seeds"] == []
        assert [run["seed"] for run in row["runs"]] == [0]
        for values in (row["mean"], row["std"], *row["runs"]):
            assert values.keys() - {"seed"} == {column.name for column in COLUMNS}
            compared_with_fednas = {"time_to_reference"}  # may never have been as accurate
            filled = values.keys() - compared_with_fednas
            assert all(isinstance(values[name], float | int) for name in filled)
        assert row["mean"]["seconds_total"] > 0
        assert row["mean"]["macs"] > row["mean"]["parameters"] > 0
    with (comparison / "table.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [line["variant"] for line in lines] == list(table)
    for line in lines:
        empty = {name for name, value in line.items() if value == ""}
        assert empty <= {"time_to_reference_mean", "time_to_reference_std"}
        assert float(line["test_accuracy_mean"]) == table[line["variant"]]["mean"]["test_accuracy"]
    rows = (comparison / "table.md").read_text().splitlines()
    assert len(rows) == 4
    assert {row.count("|") for row in rows} == {len(COLUMNS) + 3}
    cells = [row.split(" | ")[1:] for row in rows[2:]]
    assert all("±" in cell for line in cells for cell in line[1:-2])


def test_the_values_are_those_of_the_runs(comparison: Path) -> None:
    for name, row in table_of(comparison).items():
        summary = json.loads((comparison / name / "seed-0" / "summary.json").read_text())
        assert row["mean"]["test_accuracy"] == summary["test_accuracy"]
        assert (
            row["mean"]["client_after_worst_tenth"]
            == (summary["client_accuracy_after"]["worst_tenth"])
        )
        assert row["mean"]["held_out_before_mean"] == summary["held_out_accuracy_before"]["mean"]
        assert row["mean"]["mb_up"] == summary["bytes_up"] / 1e6
        assert row["mean"]["seconds_total"] == summary["algorithm_seconds"]["total"]


def test_fednas_costs_search_and_retraining_and_has_twice_the_rounds(comparison: Path) -> None:
    fednas = table_of(comparison)["fednas"]["mean"]
    lines = (comparison / "fednas" / "seed-0" / "metrics.jsonl").read_text().splitlines()
    rounds = [json.loads(line) for line in lines]

    assert [line["phase"] for line in rounds] == ["search", "search", "training", "training"]
    own = [line["seconds"]["total"] - line["seconds"]["evaluation"] for line in rounds]
    assert fednas["seconds_search"] == pytest.approx(sum(own[:2]))
    assert fednas["seconds_training"] == pytest.approx(sum(own[2:]))
    assert fednas["seconds_total"] == pytest.approx(sum(own))
    assert fednas["seconds_total"] == fednas["seconds_search"] + fednas["seconds_training"]
    assert min(fednas["seconds_search"], fednas["seconds_training"]) > 0


def test_evaluation_is_not_counted(comparison: Path) -> None:
    for name in ("fedmetanas", "fednas"):
        folder = comparison / name / "seed-0"
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        summary = json.loads((folder / "summary.json").read_text())
        assert sum(line["seconds"]["evaluation"] for line in lines) > 0
        total = sum(line["seconds"]["total"] for line in lines)
        assert summary["algorithm_seconds"]["total"] < total < summary["seconds"]


def test_all_pictures_are_there(comparison: Path) -> None:
    written = sorted(path.name for path in comparison.iterdir() if path.is_file())

    assert written == sorted(PICTURES + TABLES)
    for name in PICTURES:
        assert (comparison / name).read_bytes().startswith(b"\x89PNG")


def test_the_curve_ends_with_the_network(comparison: Path) -> None:
    folder = comparison / "fednas" / "seed-0"
    summary = json.loads((folder / "summary.json").read_text())

    curve = read_curve(folder)

    assert [point.rounds for point in curve] == [1, 2, 3, 4]
    assert curve[-1].accuracy == summary["test_accuracy"]
    assert curve[-1].seconds == pytest.approx(summary["algorithm_seconds"]["total"])
    sent = (summary["bytes_down"] + summary["bytes_up"]) / 1e6
    assert curve[-1].megabytes == pytest.approx(sent)
    for axis in ("seconds", "megabytes"):
        places = [getattr(point, axis) for point in curve]
        assert places == sorted(places)


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Let the operating system refuse to write more bytes into a file, as a full disk does."""
    before, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (before, most))


def test_plots_that_cannot_be_written_leave_those_of_before(
    copied: Path, experiment: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path.name: path.read_bytes() for path in copied.iterdir() if path.is_file()}

    with files_of_at_most(8192):
        assert compared(experiment, copied, "--strategies", "fedmetanas,fednas") == 2

    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1
    assert "accuracy-seconds.png: File too large" in said
    assert {path.name: path.read_bytes() for path in copied.iterdir() if path.is_file()} == before


def test_a_picture_that_cannot_be_written_leaves_the_one_of_before(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copied / "fedmetanas" / "seed-0"
    assert main(["draw", str(folder)]) == 0
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert len(before["cells.png"]) > 8192

    with files_of_at_most(8192):
        assert main(["draw", str(folder)]) == 2

    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1
    assert "cells.png: File too large" in said
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


# What is run, and what is not


def test_a_finished_run_is_not_run_again_and_a_new_one_is(
    copied: Path, experiment: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = files_of(copied)
    for name in TABLES + PICTURES:
        (copied / name).unlink()

    assert compared(experiment, copied, "--strategies", "fedmetanas,fednas,fedavg") == 0

    after = files_of(copied)
    assert {path: after[path] for path in before} == before
    assert {path.split("/")[0] for path in after.keys() - before.keys()} == {"fedavg"}
    assert capsys.readouterr().out.count("finished before") == 2
    assert list(table_of(copied)) == ["fedmetanas", "fednas", "fedavg"]


def test_a_run_killed_before_its_first_checkpoint_starts_anew_and_no_other(
    copied: Path, experiment: str
) -> None:
    before = files_of(copied)
    folder = copied / "fedmetanas" / "seed-0"
    lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    for path in folder.iterdir():  # what is left when a run is stopped after a round
        if path.name not in ("settings.yaml", "metrics.jsonl"):
            path.unlink()
    (folder / "metrics.jsonl").write_text(lines[0])
    (folder / "summary.json.part").write_text("{")

    assert compared(experiment, copied, "--strategies", "fedmetanas,fednas") == 0

    after = files_of(copied)
    assert after.keys() == before.keys()
    changed = {path for path in after if after[path] != before[path]}
    assert changed == {f"fedmetanas/seed-0/{name}" for name in ("metrics.jsonl", "summary.json")}
    again = (folder / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["round"] for line in again] == [1, 2]


BROKEN = """
from fedmetanas.strategies.fedmetanas import FedMetaNAS


class Broken(FedMetaNAS):
    def aggregate_train(self, server_round, replies):
        raise ZeroDivisionError("broken on purpose")
"""


def test_a_run_that_fails_stops_no_other_and_the_table_says_so(
    experiment: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "broken_on_purpose.py").write_text(BROKEN)
    monkeypatch.syspath_prepend(tmp_path)
    own, out = tmp_path / "own.yaml", tmp_path / "out"
    own.write_text("broken: {settings: [strategy.name=broken_on_purpose:Broken]}")

    status = compared(experiment, out, "--variants", str(own), "--strategies", "broken,fedavg")

    assert status == 1
    said = capfd.readouterr().err
    assert "ZeroDivisionError: broken on purpose" in said
    assert "broken, seed 0 (1 of 2) failed" in said
    table = table_of(out)
    assert (table["broken"]["missing_seeds"], table["fedavg"]["missing_seeds"]) == ([0], [])
    assert table["broken"]["runs"] == []
    assert table["fedavg"]["mean"]["test_accuracy"] >= 0
    assert "| broken | 0, missing: seed 0 | - |" in (out / "table.md").read_text()


@pytest.mark.parametrize(
    ("name", "content"),
    [("table.md", "# Chairs and tables"), ("table.csv", "a,b"), ("table.json", "{}")],
)
def test_tables_of_something_else_are_not_written_over(
    name: str, content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_text(content)

    assert main(["compare", "digits", "--engine", "inline", "--out", str(tmp_path)]) == 2

    said = capsys.readouterr().err
    assert f"{tmp_path / name} is not of a comparison" in said
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {name: content}


@pytest.mark.parametrize("name", ["thesis.tex", "summary.json"])
def test_a_folder_of_something_else_is_left_alone(
    name: str, experiment: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "out" / "fedavg" / "seed-0"
    folder.mkdir(parents=True)
    (folder / name).write_text("{}")

    assert compared(experiment, tmp_path / "out", "--strategies", "fedmetanas,fedavg") == 2

    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1
    assert f"{folder} is not the folder of a run" in said
    assert [path.name for path in folder.iterdir()] == [name]
    assert not (tmp_path / "out" / "fedmetanas").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--strategies", "fedmetanas,fedavgg"], ["--strategies", "'fedavgg'", "'fedavg'"]),
        (["--strategies", "fedavg,fedavg"], ["'fedavg' stands twice"]),
        (["--strategies", ""], ["--strategies", "fedmetanas"]),
        (["--seeds", "0,one"], ["--seeds", "whole numbers", "'0,one'"]),
        (["--seeds", "0,-1"], ["--seeds", "whole numbers"]),
        (["--seeds", "1,1"], ["--seeds", "twice"]),
        (["--seeds", "9" * 5000], ["--seeds"]),
        (["search.node=3"], ["search.node", "search.nodes"]),
        (["seed=3"], ["--seeds"]),
        (["--reference", "fedav"], ["--reference: expected one of", "'fedav'", "'fedavg'"]),
        (["--reference", "random"], ["--reference", "'random'", "fednas-brief-search"]),
        (["search.operations=[skip_connect]"], ["fedavg", "sep_conv_3x3"]),
        (["--variants", "nowhere.yaml"], ["nowhere.yaml", "No such file"]),
        (["clients=500"], ["data.min_client_size"]),
        (["--out", "/dev/null/out"], ["--out", "/dev/null/out"]),
    ],
)
def test_bad_input_is_one_line_before_anything_starts(
    arguments: list[str],
    words: list[str],
    experiment: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    short = ["--strategies", "fedmetanas,fednas-brief-search,fedavg", "--seeds", "0"]

    assert main(["compare", experiment, *short, *arguments]) == 2

    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1, said
    assert all(word in said for word in words), said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("change", ["finished", "unfinished", "broken"])
def test_other_settings_than_before_are_refused(
    change: str, copied: Path, experiment: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copied / "fednas" / "seed-0"
    if change == "unfinished":
        (folder / "summary.json").unlink()
    if change == "broken":
        (folder / "settings.yaml").write_text("rounds: [")
    before = files_of(copied)
    other = [] if change == "broken" else ["client.outer_lr=0.05"]

    assert compared(experiment, copied, "--strategies", "fednas", *other) == 2

    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1
    assert str(folder / "settings.yaml") in said
    assert files_of(copied) == before


def test_a_folder_that_another_comparison_writes_to_is_refused(
    copied: Path, experiment: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = files_of(copied)
    handle = os.open(copied, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)

    assert compared(experiment, copied, "--strategies", "fedavg") == 2
    assert "another run is at work in" in capsys.readouterr().err
    assert files_of(copied) == before

    os.close(handle)
    assert compared(experiment, copied, "--strategies", "fedmetanas,fednas") == 0


# Variants


def test_variants_are_what_they_say() -> None:
    variants = read_variants()
    base = tiny.settings_of("rounds=10")
    names = {
        *("fedmetanas", "fedavg", "perfedavg", "fednas", "fednas-brief-search"),
        *("random", "random-1", "random-2", "random-3", "random-4"),
        *("no-meta-learning", "second-order", "no-noise", "gumbel", "gumbel-hard"),
        *("no-input-pruning", "no-operation-pruning"),
        *("inner-weights-only", "inner-alphas-only"),
        *("fedmetanas-half-time", "fedavg-half-time", "perfedavg-half-time"),
        *("random-half-time", "random-half-time-1", "finalists-half-time"),
        *("fedmetanas-equal-time", "fedavg-equal-time", "random-equal-time"),
        *("finalists-equal-time", "fednas-double-time"),
        *("no-meta-learning-more-steps", "one-weight-free-edge"),
    }
    assert set(variants) == names
    assert all(variant.about for variant in variants.values())
    order = [name for name in variants if name in ("random", "random-half-time", "gumbel")]
    assert order == ["random", "random-half-time", "gumbel"]  # baselines, by the clock, parts

    made = {name: v.of("digits", ["rounds=10"], 5) for name, v in variants.items()}
    assert {settings.seed for settings in made.values()} == {5}
    rounds = {name: settings.rounds for name, settings in made.items() if settings.rounds != 10}
    times = {name: 55 if "-equal" in name else 25 for name in names if "-time" in name}
    times |= {"fednas": 20, "fednas-brief-search": 20, "fednas-double-time": 40}
    assert rounds == times
    plain, more = load("mnist-short", []).client, made["no-meta-learning-more-steps"].client
    assert (more.episodes, more.inner_steps) == (plain.episodes * (plain.inner_steps + 1), 0)
    assert made["one-weight-free-edge"].search.weight_free_limit == 1
    assert made["random-equal-time"].strategy == made["random-half-time"].strategy
    longer, short = made["finalists-equal-time"], made["finalists-half-time"]
    assert replace(longer, rounds=25, strategy=short.strategy) == short
    assert short.strategy.options == {"parameters": 15000}
    assert longer.strategy.options == {"parameters": 15000, "search_share": 0.05}
    assert made["fedmetanas"].search == made["gumbel"].search
    assert made["second-order"].client.second_order
    assert made["no-meta-learning"].client.inner_steps == 0
    assert made["inner-weights-only"].client.inner_alpha_lr == 0
    assert made["inner-alphas-only"].client.inner_lr == 0
    assert made["no-operation-pruning"].search.operation_threshold == 0
    assert made["no-input-pruning"].search.pair_threshold == 0
    assert base.rounds == 10


@pytest.mark.parametrize("name", sorted(read_variants()))
def test_every_variant_runs(name: str) -> None:
    settings = read_variants()[name].settings
    size = ("search.nodes=2", "search.layers=3", "search.channels=8")  # some ask for a network's

    summary = tiny.run_search(*settings, *size, "rounds=2", "evaluation.every=9").summary

    assert summary["operations"] == 8


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("fedavg: {settings: []}", "'fedavg' is declared twice"),
        ("mine: {setings: []}", "expected the keys about, settings, times_rounds"),
        ("mine: [rounds=3]", "expected the keys"),
        ("mine: {settings: rounds=3}", "settings: expected a list"),
        ("mine: {times_rounds: 0}", "times_rounds"),
        ("mine: {times_rounds: .nan}", "times_rounds"),
        ('mine: {about: "two\\nlines"}', "about: expected one line"),
        ("../mine: {}", "expected a name"),
        ("3: {}", "expected a name"),
        ("[mine]", "expected names"),
        ("mine: {", "not valid YAML"),
    ],
)
def test_a_file_that_declares_no_variants_is_one_line(
    text: str, words: str, tmp_path: Path
) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(text)

    with pytest.raises(SettingsError, match=r"own\.yaml") as caught:
        read_variants(path)

    assert words in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_variants_settings_win_over_the_command_line(experiment: str) -> None:
    variant = Variant("mine", "", ("client.inner_lr=0.5",), 1.5)

    settings = variant.of(experiment, ["client.inner_lr=0.1", "rounds=4", "clients=2"], 7)

    assert (settings.client.inner_lr, settings.rounds, settings.seed) == (0.5, 6, 7)
    assert settings.clients == 2
    assert choose(["mine"], {"mine": variant}, "--strategies") == [variant]


# Tables by numbers worked out by hand


@pytest.fixture
def rows(tmp_path: Path) -> list[Row]:
    """One variant with accuracies 0.5, 0.6, 0.9 and no held-out clients; one with a run missing."""
    for seed, accuracy in enumerate((0.5, 0.6, 0.9)):
        for name in ("good", "half"):
            folder = tmp_path / name / str(seed)
            folder.mkdir(parents=True)
            if name == "good" or seed != 1:
                summary = {"test_accuracy": accuracy, "algorithm_seconds": {"total": 10.0 * seed}}
                more = {"rounds": 3, "bytes_up": 2e6}
                (folder / "summary.json").write_text(json.dumps(summary | more))
    return [
        Row(name, "", {seed: tmp_path / name / str(seed) for seed in range(3)})
        for name in ("good", "half")
    ]


def test_mean_and_deviation_by_hand(rows: list[Row]) -> None:
    good, half = json.loads(to_json(rows))

    # Deviations from 2/3 squared: 25/900 + 4/900 + 49/900 = 78/900, over two.
    assert good["mean"]["test_accuracy"] == pytest.approx(2 / 3)
    assert good["std"]["test_accuracy"] == pytest.approx((39 / 900) ** 0.5)
    assert good["mean"]["seconds_total"] == 10
    assert good["mean"]["mb_up"] == 2
    assert (good["missing_seeds"], half["missing_seeds"]) == ([], [1])
    assert half["mean"]["test_accuracy"] == pytest.approx(0.7)
    assert Spread.of([0.25]) == Spread(0.25, 0.0)


def test_tables_that_cannot_be_written_leave_those_of_before(
    rows: list[Row], tmp_path: Path
) -> None:
    write_tables(rows, tmp_path)
    before = {name: (tmp_path / name).read_bytes() for name in TABLES}

    with files_of_at_most(64), pytest.raises(UnwritableError, match=r"table\.csv: File too large$"):
        write_tables(rows[:1], tmp_path)

    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


def test_what_is_not_there_is_left_empty(rows: list[Row]) -> None:
    markdown = to_markdown(rows)
    line = next(csv.DictReader(to_csv(rows).splitlines()))

    assert json.loads(to_json(rows))[0]["mean"]["held_out_after_mean"] is None
    assert line["held_out_after_mean_mean"] == ""
    assert "| good | 3 | 0.6667 ± 0.2082 | - |" in markdown
    assert "| half | 2, missing: seed 1 | 0.7000 ± 0.2828 | - |" in markdown
    column = Column("x", "x", "a.b", unit=2.0)
    assert column.value({"a": {"b": 3}}) == 1.5
    assert column.value({"a": 1}) is None


def row_of(folder: Path, name: str, *summaries: dict[str, Any]) -> Row:
    """Return a variant whose runs have left some summaries, those without one being missing."""
    folders = {seed: folder / name / str(seed) for seed in range(len(summaries))}
    for seed, summary in enumerate(summaries):
        folders[seed].mkdir(parents=True)
        if summary:
            whole = {"rounds": 3, **summary}
            (folders[seed] / "summary.json").write_text(json.dumps(whole))
    return Row(name, "", folders)


def summary_of(accuracy: float, adapted: float, seconds: float, parameters: int) -> dict[str, Any]:
    return {
        "test_accuracy": accuracy,
        "client_accuracy_after": {"mean": adapted, "worst_tenth": 0.0},
        "algorithm_seconds": {"total": seconds},
        "parameters": parameters,
    }


def test_the_console_gets_the_columns_that_matter(tmp_path: Path) -> None:
    first, second = summary_of(0.5, 0.75, 9.0, 1000), summary_of(0.6, 0.75, 11.0, 3000)
    rows = [
        row_of(tmp_path, "fedmetanas", first, second),
        row_of(tmp_path, "fednas", summary_of(0.25, 0.5, 12345.6, 1_234_567), {}),
        row_of(tmp_path, "none", {}, {}),
    ]

    # Deviations: 0.1 and 2 over the root of two.
    assert to_console(rows)[:-1] == [
        "                           test      adapted",
        "variant       runs     accuracy     accuracy   seconds  parameters",
        "fedmetanas       2  0.550±0.071  0.750±0.000  10.0±1.4       2,000",
        "fednas      1 of 2        0.250        0.500    12,346   1,234,567",
        "none        0 of 2            -            -         -           -",
    ]


@pytest.mark.parametrize("name", ["no-meta-learning-more-steps", "n" * 79])
def test_no_line_of_the_console_is_longer_than_80_characters(name: str, tmp_path: Path) -> None:
    large = summary_of(0.123456, 0.99999, 123_456.7, 12_345_678)
    larger = summary_of(0.923456, 0.09999, 987_654.3, 12_345_678)
    rows = [row_of(tmp_path, one, large, larger) for one in ("fednas", name)]

    lines = to_console(rows)

    assert max(map(len, lines)) <= 80
    (row,) = [line for line in lines if line.startswith(name)]
    below = lines[lines.index(row) + 1]
    assert (row if " " in row else below).split()[-1] == "12,345,678"


def test_a_comparison_prints_the_table_and_names_the_file_with_the_rest(
    copied: Path, experiment: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compared(experiment, copied, "--strategies", "fedmetanas,fednas") == 0

    lines = capsys.readouterr().out.splitlines()
    at = lines.index(f"all columns: {copied.absolute()}/table.md")
    assert [line.split()[0] for line in lines[at - 4 : at - 1]] == [
        "variant",
        "fedmetanas",
        "fednas",
    ]
    assert max(map(len, lines[at - 5 : at])) <= 80
    assert (copied / "table.md").read_text().splitlines()[0].count("|") == len(COLUMNS) + 3


def test_a_variant_of_which_every_run_failed_has_a_row(tmp_path: Path) -> None:
    row = Row("none", "", {0: tmp_path / "0", 1: tmp_path / "1"})

    assert "| none | 0, missing: seed 0, 1 | - |" in to_markdown([row])
    assert json.loads(to_json([row]))[0]["runs"] == []


def test_curves_are_averaged_place_by_place() -> None:
    first = [Point(1, 2.0, 1.0, 0.2, "search"), Point(2, 3.0, 1.5, 0.6, "training")]
    second = [Point(1, 4.0, 1.0, 0.4, "search"), Point(2, 7.0, 1.5, 0.8, "training")]

    places, spreads = mean_curve([first, second], "seconds", "training")

    assert places == [5.0]
    assert spreads[0].mean == pytest.approx(0.7)
    assert spreads[0].std == pytest.approx(0.02**0.5)
    assert mean_curve([first, second], "seconds", "search")[0] == [3.0]
    assert mean_curve([], "seconds", "search") == ([], [])


CURVE = [Point(1, 10.0, 1.0, 0.6, "search"), Point(2, 20.0, 2.0, 0.5, "search")]
ANEW = [*CURVE, Point(3, 30.0, 3.0, 0.4, "training"), Point(4, 40.0, 4.0, 0.7, "training")]


@pytest.mark.parametrize(
    ("curve", "accuracy", "seconds"),
    [(CURVE, 0.5, 10.0), (CURVE, 0.61, None), (ANEW, 0.5, 40.0), (ANEW, 0.4, 30.0)],
)
def test_seconds_to_an_accuracy(curve: list[Point], accuracy: float, seconds: float | None) -> None:
    assert seconds_to(curve, accuracy) == seconds


@pytest.mark.parametrize(
    ("curve", "seconds", "accuracy"),
    [
        (CURVE, 9.0, None),
        (CURVE, 19.9, 0.6),
        (CURVE, 99.0, 0.5),
        (ANEW, 25.0, None),
        (ANEW, 30, 0.4),
    ],
)
def test_accuracy_after_some_seconds(
    curve: list[Point], seconds: float, accuracy: float | None
) -> None:
    assert accuracy_at(curve, seconds) == accuracy


def run_folder(folder: Path, seconds: list[float], accuracies: list[float]) -> Path:
    """Write what a run would leave whose rounds took so long, without their evaluation."""
    folder.mkdir()
    for number, (own, accuracy) in enumerate(zip(seconds, accuracies, strict=True), start=1):
        line = {
            "round": number,
            "phase": "search",
            "seconds": {"total": own + 5.0, "evaluation": 5.0},
            "bytes_down": {"weights": 1},
            "bytes_up": {"weights": 1},
            "test_accuracy": accuracy,
        }
        with (folder / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
    summary = {
        "rounds": len(seconds),
        "test_accuracy": accuracies[-1],
        "algorithm_seconds": {"total": sum(seconds)},
    }
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def test_a_run_is_set_against_the_references_run_of_its_seed(tmp_path: Path) -> None:
    reference = Row("r", "", {0: run_folder(tmp_path / "r", [40.0, 60.0], [0.2, 0.7])})
    fast = Row("f", "", {0: run_folder(tmp_path / "f", [20.0, 30.0], [0.75, 0.8])}, reference)
    slow = Row("s", "", {0: run_folder(tmp_path / "s", [90.0, 50.0], [0.4, 0.6])}, reference)
    other_seed = Row("o", "", {1: tmp_path / "f"}, reference)

    table = {
        row["variant"]: (row["mean"]["time_to_reference"], row["mean"]["ahead_of_reference"])
        for row in json.loads(to_json([fast, slow, other_seed]))
    }

    assert table["f"] == (pytest.approx(0.2), pytest.approx(0.1))
    assert table["s"] == (None, pytest.approx(-0.3))  # 0.4 is what it had when 100 s were over
    assert table["o"] == (None, None)


def test_every_curve_of_a_plot_looks_different(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    anew = run_folder(tmp_path / "anew", [1.0, 1.0], [0.2, 0.3])
    lines = (anew / "metrics.jsonl").read_text().splitlines()
    lines[1] = lines[1].replace('"search"', '"training"')
    (anew / "metrics.jsonl").write_text("\n".join(lines))
    plain = run_folder(tmp_path / "plain", [1.0, 1.0], [0.2, 0.3])
    rows = [Row(str(n), "", {0: plain}) for n in range(39)] + [Row("anew", "", {0: anew})]
    figures: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: figures.append(figure))

    draw_curves(rows, tmp_path)

    assert len(figures) == len(PICTURES)
    for figure in figures:
        *plains, search, training = figure.axes[0].lines
        looks = [(line.get_color(), line.get_marker()) for line in [*plains, training]]
        assert len(set(looks)) == len(looks) == 40
        assert {line.get_linestyle() for line in [*plains, training]} == {"-"}
        assert search.get_linestyle() == "--"
        assert (search.get_color(), search.get_marker()) == looks[-1]


def test_settings_of_a_run_are_those_of_its_variant(comparison: Path, experiment: str) -> None:
    found = from_yaml((comparison / "fednas" / "seed-0" / "settings.yaml").read_text())

    assert found == read_variants()["fednas"].of(experiment, ["rounds=2"], 0)
    strategy = make_strategy(
        found.strategy.name, found.strategy.options, tiny.experiment_of("rounds=4").plan
    )
    assert getattr(strategy, "search_rounds", None) == 2
