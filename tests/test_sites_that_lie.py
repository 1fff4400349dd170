"""Sites of which nothing is believed: what they may say, and what becomes of a run."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
from flwr.app import ConfigRecord, Context, Message, RecordDict
from machines import AGREED, Machines, write_images

from fedmetanas.errors import DataError, SettingsError
from fedmetanas.experiments.client_data import _opened_site, open_site
from fedmetanas.experiments.experiment import _opened, open_on_server
from fedmetanas.experiments.settings import Settings
from fedmetanas.experiments.sites.facts import facts_of
from fedmetanas.server import app as server_app
from fedmetanas.server.proposal import propose
from fedmetanas.server.roster import Roster
from fedmetanas.strategies import wire

NODES = {"north": 70, "south": 31}
COUNTS = {"cat": (6, 2), "dog": (5, 2)}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sites-that-lie")
    for seed, name in enumerate(NODES):
        write_images(folder / name, seed, COUNTS)
    return folder


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache-of-liars"))


def settings_of(*overrides: str) -> Settings:
    return tiny.settings_of(
        *("data.cache=", "sites=[north, south]", *AGREED, "engine.wait=0", *overrides)
    )


def machines_of(settings: Settings, root: Path, out: Path) -> Machines:
    return Machines(
        {"settings": settings.to_yaml(), "name": "a-run"},
        {
            node: {"site": name, "data-path": str(root / name), "log": str(out / "log")}
            for name, node in NODES.items()
        },
    )


def run_server(grid: Machines, monkeypatch: pytest.MonkeyPatch, results: Path) -> Path:
    """Run the ServerApp as it runs where nodes are machines of their own."""
    monkeypatch.setattr(server_app, "meets_machines", lambda grid: True)
    monkeypatch.setenv("FEDMETANAS_RESULTS", str(results))
    server_app.app(grid=grid, context=Context(1, 1, {}, RecordDict(), dict(grid.run_config)))
    return results / "a-run"


def roster_of(grid: Machines, settings: Settings) -> Roster:
    return Roster(grid, open_on_server(settings), {}, {})


def lie(grid: Machines, node: int, **facts: Any) -> None:
    """Let a node say something else in its hello; None leaves a fact out."""
    app = grid.client_app

    def lying(message: Message, context: Context) -> Message:
        reply = app(message, context)
        if context.node_id == node and message.metadata.message_type == wire.HELLO:
            said = dict(reply.content.config_records["config"]) | facts
            config = ConfigRecord({key: value for key, value in said.items() if value is not None})
            return Message(RecordDict({"config": config}), reply_to=message)
        return reply

    grid.client_app = lying


ENORMOUS = ["x" * 900] * 9_000
STEERING = "\x1b[2J\x1b]0;owned\x07\nresults: /etc/a-run\nfedmetanas: all is well"


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({"classes": 5}, "not of their kind"),
        ({"classes": True}, "not of their kind"),
        ({"classes": [1, 2]}, "not of their kind"),
        ({"classes": None}, "not of their kind"),
        ({"versions": 1.5}, "not of their kind"),
        ({"class-counts": 7}, "not of their kind"),
        ({"class-counts": [1]}, "not of their kind"),
        ({"class-counts": [-1, 4]}, "not of their kind"),
        ({"class-counts": [float("nan"), 4.0]}, "not of their kind"),
        ({"train-images": -3}, "not of their kind"),
        ({"train-images": float("nan")}, "not of their kind"),
        ({"train-images": 2**60}, "not of their kind"),
        ({"site": 7}, "not of their kind"),
        ({"site": "x" * 10_000_000}, "not of their kind"),
        ({"classes": ["cat"] * 20_000}, "not of their kind"),
        ({"classes": ENORMOUS, "class-counts": [1] * 9_000}, "and 8980 more"),
        ({"site": STEERING}, "no such name"),
        ({"classes": ["cat", STEERING]}, "data.classes"),
        ({"versions": [STEERING]}, "engine.versions"),
        ({"versions": ENORMOUS}, "engine.versions"),
    ],
)
def test_what_a_site_lies_is_refused_in_one_line_that_can_be_shown(
    facts: dict[str, Any],
    reason: str,
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    grid = machines_of(settings_of(), root, tmp_path)
    lie(grid, NODES["north"], **facts)

    with pytest.raises(SettingsError) as caught:
        run_server(grid, monkeypatch, tmp_path / "results")

    words = str(caught.value)
    assert reason in words
    assert words.isprintable()
    assert len(words) < 25_000
    assert "south:" not in words


@pytest.mark.parametrize("part", ["0", -1, 2, True])
def test_a_part_that_is_none_is_refused(part: Any, root: Path, tmp_path: Path) -> None:
    alone = (
        "clients=2",
        "held_out_clients=0",
        "data.partition=iid",
        "data.min_client_size=3",
        "engine.wait=0",
    )
    settings = tiny.settings_of("data.cache=", *AGREED, *alone)
    grid = machines_of(settings, root, tmp_path)
    for node, place in ((NODES["north"], 0), (NODES["south"], 1)):
        copy = {"data-path": str(root / "north"), "partition-id": place, "num-partitions": 2}
        grid.nodes[node] = {**copy, "log": str(tmp_path / "log")}
    lie(grid, NODES["south"], **{wire.PARTITION: part})

    with pytest.raises(SettingsError) as caught:
        roster_of(grid, settings).assemble()
    assert str(caught.value).startswith(f"node {NODES['south']}: it plays part")


# Who does not answer


def silent_of(settings: Settings, root: Path, out: Path) -> Machines:
    grid = machines_of(settings, root, out)
    grid.silent = {NODES["south"]}
    return grid


def test_no_run_waits_longer_than_the_timeout_for_those_it_can_do_without(
    root: Path, tmp_path: Path
) -> None:
    settings = settings_of("min_replies=1", "engine.wait=3600", "engine.timeout=0.5")
    grid = machines_of(settings, root, tmp_path)
    del grid.nodes[NODES["south"]]

    assert [facts.site for facts in roster_of(grid, settings).assemble()] == ["north"]


def test_a_proposal_does_not_wait_for_a_node_that_never_answers(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = tiny.settings_of("data.cache=", "data.dataset=imagefolder", "engine.wait=0")

    with pytest.raises(SettingsError, match="paste the lines above"):
        propose(silent_of(settings, root, tmp_path), settings)

    assert "- north" in capsys.readouterr().out


def test_a_site_that_is_refused_is_not_said_to_be_away(root: Path, tmp_path: Path) -> None:
    settings = settings_of()
    grid = machines_of(settings, root, tmp_path)
    roster = roster_of(grid, settings)
    roster.assemble()
    grid.nodes[99] = grid.nodes.pop(NODES["south"])
    lie(grid, 99, versions=["python 2.7"])

    for _ in range(3):
        assert roster.find([0, 1]) == {0: NODES["north"]}
        assert "python 2.7" in roster.absence(1)


# Who changes in the middle of a run


def test_a_site_whose_images_change_under_its_node_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed, name in enumerate(NODES):
        write_images(tmp_path / name, seed, COUNTS)
    settings = settings_of("rounds=3", "min_replies=1", "evaluation.every=1")
    grid = machines_of(settings, tmp_path, tmp_path)

    def change(messages: list[Message]) -> None:
        config = next(iter(messages[0].content.config_records.values()))
        if messages[0].metadata.message_type == "train" and config["server-round"] == 2:
            write_images(tmp_path / "south", 77, COUNTS)  # as many, but others
            for opened in (_opened, _opened_site):  # as in a process that begins anew
                opened.cache_clear()

    grid.before_push = change
    folder = run_server(grid, monkeypatch, tmp_path / "results")

    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    left_out = [[(one["client"], one["reason"]) for one in line["left_out"]] for line in lines]
    gone = (1, "its images have changed since the run began")
    assert left_out == [[], [gone, gone], [gone]]  # train and evaluate; the last is measured later
    summary = json.loads((folder / "summary.json").read_text())
    assert list(summary["sites"]) == ["north"]


def test_the_pruning_gap_is_of_the_sites_that_measured_both_networks(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = machines_of(settings_of("rounds=1", "engine.timeout=1"), root, tmp_path)
    measured: list[Message] = []

    def leave(messages: list[Message]) -> None:
        if messages and messages[0].metadata.message_type == "evaluate":
            measured.extend(messages)
            if len(measured) > len(NODES):
                grid.nodes.pop(NODES["south"], None)

    app = grid.client_app

    def all_right(message: Message, context: Context) -> Message:
        reply = app(message, context)
        if context.node_id == NODES["north"] and message.metadata.message_type == "evaluate":
            reply.content.metric_records["metrics"]["accuracy-before"] = 1.0
        return reply

    grid.client_app, grid.before_push = all_right, leave
    folder = run_server(grid, monkeypatch, tmp_path / "results")

    summary = json.loads((folder / "summary.json").read_text())
    assert summary["test_accuracy"] < 1  # that of both sites
    assert summary["accuracy_before_last_cut"] == 1  # that of north alone
    assert summary["pruning_gap"] == 0


# What can be said at all


def test_a_class_whose_name_cannot_be_sent_is_named_at_the_site(root: Path) -> None:
    dataset = open_site(settings_of(), root / "north")
    odd = replace(dataset, classes=("cat", "d\udcffg", "emu"))

    with pytest.raises(DataError, match=r"the class 'd\\udcffg' has no name in UTF-8"):
        facts_of(odd, "north", "counts")
