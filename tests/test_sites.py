"""Sites: who takes part, with which images, and what the server learns."""

import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from flwr.app import Context, Message, MessageType, RecordDict
from machines import AGREED, CLASSES, Machines, write_images
from PIL import Image

from fedmetanas.errors import SettingsError
from fedmetanas.experiments.client_data import _opened_site
from fedmetanas.experiments.commands.main import main
from fedmetanas.experiments.data.partitions import split_at_site
from fedmetanas.experiments.experiment import Experiment, experiment_of, open_on_server
from fedmetanas.experiments.rehearsal import rehearse
from fedmetanas.experiments.results import run_folder
from fedmetanas.experiments.settings import Settings
from fedmetanas.experiments.sites.agreement import Facts, proposal
from fedmetanas.server import app as server_app
from fedmetanas.server import roster as roster_module
from fedmetanas.server.nodes import ClientError
from fedmetanas.server.roster import Roster
from fedmetanas.strategies import wire

SITES = {
    "north": {"cat": (9, 3), "dog": (4, 2), "emu": (5, 1)},
    "south": {"cat": (2, 1), "dog": (11, 4)},  # which has no emu
    "west": {"cat": (3, 1), "dog": (3, 2), "emu": (20, 5)},
}
NAMES = ("north", "south", "west")
NODES = {"north": 70, "south": 31, "west": 50}  # in another order than the sites
HELD_OUT = "west"
SEED_OF = {name: number for number, name in enumerate(NAMES)}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sites")
    for name, counts in SITES.items():
        write_images(folder / name, SEED_OF[name], counts)
    return folder


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache-of-sites"))


def settings_of(*overrides: str, sites: str = "[north, south]", held: str = "[west]") -> Settings:
    named = (f"sites={sites}", f"held_out_sites={held}")
    return tiny.settings_of("data.cache=", *named, *AGREED, "engine.wait=0", *overrides)


def config_of(name: str, root: Path, out: Path) -> dict[str, Any]:
    own = {"log": str(out / f"log-{name}"), "results": str(out / f"kept-{name}")}
    return {"site": name, "data-path": str(root / name), **own}


def machines_of(
    settings: Settings, root: Path, out: Path, names: tuple[str, ...] = NAMES
) -> Machines:
    run_config = {"settings": settings.to_yaml(), "name": "a-run"}
    return Machines(run_config, {NODES[name]: config_of(name, root, out) for name in names})


def run_server(
    grid: Machines, monkeypatch: pytest.MonkeyPatch, results: Path, **config: Any
) -> Path:
    """Run the ServerApp as it runs where nodes are machines of their own."""
    monkeypatch.setattr(server_app, "meets_machines", lambda grid: True)
    monkeypatch.setenv("FEDMETANAS_RESULTS", str(results))
    grid.run_config |= config
    context = Context(1, 1, {}, RecordDict(), dict(grid.run_config))
    server_app.app(grid=grid, context=context)
    return results / str(grid.run_config["name"])


def weights_in(folder: Path) -> bytes:
    return (folder / run_folder.WEIGHTS).read_bytes()


@pytest.fixture(scope="module")
def deployed(root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Machines, Path, Path]:
    """A run on machines of their own that completed: its grid, its folder, and all that is left."""
    out = tmp_path_factory.mktemp("deployed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache-of-sites"))
        grid = machines_of(settings_of(), root, out)
        folder = run_server(grid, patch, out / "results")
    return grid, folder, out


# What is learned from


def test_it_ends_with_the_bits_of_a_simulation_of_the_same_sites(
    deployed: tuple[Machines, Path, Path], root: Path, tmp_path: Path
) -> None:
    yaml = tmp_path / "sites.yaml"
    yaml.write_text(settings_of(f"data.root={root}").to_yaml())

    assert main(["run", str(yaml), "--engine", "inline", "--out", str(tmp_path / "out")]) == 0

    assert weights_in(tmp_path / "out") == weights_in(deployed[1])
    ours, simulated = (run_folder.read_summary(f) for f in (deployed[1], tmp_path / "out"))
    assert ours
    assert simulated
    for key in ("test_accuracy", "sites", "tested_on", "pruning_gap", "worst_site"):
        assert ours[key] == simulated[key], key


def test_every_image_is_used_as_its_split_says_and_nowhere_else(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_of("rounds=2", "client.batch_size=4", "client.episodes=9")
    seen: dict[tuple[str, str], set[str]] = {}
    now = ["", ""]
    batch = Experiment.batch

    def noted(self: Experiment, images: Any, indices: Any) -> Any:
        found = seen.setdefault((now[0], now[1]), set())
        found |= {hashlib.sha256(images.images[index].tobytes()).hexdigest() for index in indices}
        return batch(self, images, indices)

    monkeypatch.setattr(Experiment, "batch", noted)
    grid = machines_of(settings, root, tmp_path)
    app = grid.client_app

    def watched(message: Message, context: Context) -> Message:
        now[:] = str(context.node_config["site"]), message.metadata.message_type
        return app(message, context)

    grid.client_app = watched
    run_server(grid, monkeypatch, tmp_path / "results")

    for name in NAMES:
        decoded = {
            part: {
                hashlib.sha256(as_decoded(p)).hexdigest()
                for p in (root / name / part).rglob("*.png")
            }
            for part in ("train", "test")
        }
        if name == HELD_OUT:
            assert (name, MessageType.TRAIN) not in seen
            continue
        assert seen[name, MessageType.TRAIN] == decoded["train"]
        support = seen[name, MessageType.EVALUATE] - decoded["test"]
        assert decoded["test"] <= seen[name, MessageType.EVALUATE]
        assert support < decoded["train"]  # to adapt to


def as_decoded(path: Path) -> bytes:
    """Return the pixels that an image of a site has after reading, as torchvision resizes it."""
    from torchvision.transforms import functional

    with Image.open(path) as image:
        resized = functional.resize(image.convert("L"), 8, antialias=True)
    return np.asarray(functional.center_crop(resized, [8, 8]), np.uint8).tobytes()


def test_the_split_of_a_site_takes_every_image_once() -> None:
    found = split_at_site(train=41, test=7, share=0.25, seed=3, client=2)

    both = np.concatenate([found.support, found.query])
    assert sorted(both.tolist()) == list(range(41))
    assert len(found.support) == 10
    assert found.test.tolist() == list(range(7))
    assert not np.array_equal(found.support, split_at_site(41, 7, 0.25, seed=3, client=1).support)
    for train in (2, 3):
        few = split_at_site(train, 1, 0.01, 0, 0)
        assert len(few.support) == 1
        assert len(few.query) == train - 1


def test_a_label_is_the_place_of_its_name_among_the_agreed_classes(
    root: Path, tmp_path: Path
) -> None:
    settings = settings_of("data.classes=[emu, dog, cat]")
    opened = experiment_of({"settings": settings.to_yaml()}, config_of("south", root, tmp_path))

    data = opened.client(1)

    files = sorted((root / "south" / "train").rglob("*.png"))
    assert data.train.labels.tolist() == [{"dog": 1, "cat": 2}[f.parent.name] for f in files]


# What is measured


def test_the_accuracy_is_that_of_all_test_images_of_the_sites_that_train(
    deployed: tuple[Machines, Path, Path], root: Path
) -> None:
    found = run_folder.read(deployed[1])
    summary = json.loads((deployed[1] / run_folder.SUMMARY).read_text())
    right, images = {}, {}
    for name in NAMES:
        files = sorted((root / name / "test").rglob("*.png"))
        pixels = np.stack([np.frombuffer(as_decoded(f), np.uint8).reshape(1, 8, 8) for f in files])
        with torch.no_grad():
            logits = found.network(torch.from_numpy(pixels).float() / 127.5 - 1)
        labels = torch.tensor([CLASSES.index(f.parent.name) for f in files])
        right[name], images[name] = int((logits.argmax(1) == labels).sum()), len(files)

    trained = ("north", "south")
    assert summary["tested_on"] == "sites"
    assert summary["test_accuracy"] == sum(right[n] for n in trained) / sum(
        images[n] for n in trained
    )
    for name in NAMES:
        assert summary["sites"][name]["images"] == images[name]
        assert summary["sites"][name]["before"] == pytest.approx(right[name] / images[name])
    worst = min(NAMES, key=lambda name: right[name] / images[name])
    assert summary["sites"][summary["worst_site"]]["before"] == pytest.approx(
        right[worst] / images[worst]
    )


def test_a_server_opens_no_images(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    grid = machines_of(settings_of("rounds=1"), root, tmp_path)
    inside = [False]
    app = grid.client_app

    def at_a_site(message: Message, context: Context) -> Message:
        inside[0] = True
        try:
            return app(message, context)
        finally:
            inside[0] = False

    grid.client_app = at_a_site
    from fedmetanas.experiments import client_data

    open_dataset = client_data.open_dataset

    def noted(source: Any, cache: str) -> Any:
        if not inside[0]:
            opened.append(source.name)
        return open_dataset(source, cache)

    _opened_site.cache_clear()
    monkeypatch.setattr(client_data, "open_dataset", noted)

    run_server(grid, monkeypatch, tmp_path / "results")

    assert opened == []


def test_a_server_may_have_a_test_set_of_its_own(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_images(tmp_path / "city", 8, {"cat": (2, 9), "dog": (2, 4), "emu": (2, 5)})
    names = tmp_path / "sets.toml"
    names.write_text(f'city = "{tmp_path}/city"\n')
    grid = machines_of(settings_of("rounds=1", "data.test=city"), root, tmp_path)
    with pytest.raises(SettingsError, match=r"data\.test: .* FEDMETANAS_DATA is not set"):
        run_server(grid, monkeypatch, tmp_path / "results")
    monkeypatch.setenv("FEDMETANAS_DATA", str(names))

    folder = run_server(grid, monkeypatch, tmp_path / "results")

    files = sorted((tmp_path / "city" / "test").rglob("*.png"))
    pixels = np.stack([np.frombuffer(as_decoded(f), np.uint8).reshape(1, 8, 8) for f in files])
    with torch.no_grad():
        logits = run_folder.read(folder).network(torch.from_numpy(pixels).float() / 127.5 - 1)
    labels = torch.tensor([CLASSES.index(f.parent.name) for f in files])
    summary = json.loads((folder / run_folder.SUMMARY).read_text())
    assert summary["tested_on"] == "server"
    assert summary["test_accuracy"] == pytest.approx(
        float((logits.argmax(1) == labels).float().mean())
    )
    assert summary["sites"].keys() == set(NAMES)
    with pytest.raises(SettingsError, match=r"found 'town', and .* names city"):
        run_server(
            machines_of(settings_of("data.test=town"), root, tmp_path), monkeypatch, tmp_path
        )


# Who takes part


def disagreeing(root: Path, tmp_path: Path) -> dict[str, tuple[dict[str, Any], str]]:
    """Return node configs that cannot take part, and a word of the reason."""
    made = tmp_path / "made"
    write_images(made / "unknown", 3, {"cat": (3, 1), "hen": (3, 1)})
    write_images(made / "small", 4, {"cat": (3, 1), "dog": (3, 1)}, side=7)
    write_images(made / "few", 5, {"cat": (1, 1)})
    (made / "empty").mkdir()
    return {
        "unknown": ({"data-path": str(made / "unknown")}, "hen"),
        "small": ({"data-path": str(made / "small")}, "7x7"),
        "few": ({"data-path": str(made / "few")}, "1 images to train"),
        "empty": ({"data-path": str(made / "empty")}, "DataError"),
        "stranger": ({"data-path": str(root / "north")}, "no such name"),
    }


def test_all_sites_that_disagree_are_named_before_the_first_round(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases = disagreeing(root, tmp_path)
    listed = ["north", *(name for name in cases if name != "stranger")]
    settings = settings_of(sites=f"[{', '.join(listed)}]", held="[]")
    grid = machines_of(settings, root, tmp_path, ("north",))
    for node, (name, (config, _)) in enumerate(cases.items(), start=100):
        grid.nodes[node] = {"site": name, "log": str(tmp_path / "log"), **config}
    grid.nodes[99] = config_of("north", root, tmp_path)  # another that says it is north

    with pytest.raises(SettingsError) as caught:
        run_server(grid, monkeypatch, tmp_path / "results")

    words = str(caught.value)
    for name, (_, reason) in cases.items():
        assert f"{name}: " in words
        assert reason in words.partition(f"{name}: ")[2].partition("; ")[0], words
    assert "north: another node is it already" in words
    assert str(tmp_path) not in words
    assert [m.metadata.message_type for _, m, _ in grid.walked] == [wire.HELLO] * len(grid.walked)
    assert list((tmp_path / "results").rglob("*")) == [tmp_path / "results" / "a-run"]


def test_grey_images_are_no_colour(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = machines_of(settings_of("data.channels=3"), root, tmp_path)

    with pytest.raises(SettingsError, match="north: its images are grey"):
        run_server(grid, monkeypatch, tmp_path / "results")


def test_other_versions_are_refused_unless_any_will_do(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fedmetanas.client import app as client_app

    told = client_app.facts_of

    def older(*arguments: Any) -> Any:
        facts = told(*arguments)
        versions = ["torch 1.0.0" if v.startswith("torch ") else v for v in facts["versions"]]
        return facts | {"versions": versions}

    monkeypatch.setattr(client_app, "facts_of", older)
    with pytest.raises(SettingsError, match=r"north: it has torch 1\.0\.0, the server torch"):
        run_server(machines_of(settings_of(), root, tmp_path), monkeypatch, tmp_path / "results")

    grid = machines_of(settings_of("engine.versions=any", "rounds=1"), root, tmp_path)
    folder = run_server(grid, monkeypatch, tmp_path / "any")
    assert (folder / run_folder.SUMMARY).exists()


def test_other_code_is_refused(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fedmetanas.client import app as client_app

    told = client_app.facts_of
    monkeypatch.setattr(
        client_app, "facts_of", lambda *arguments: told(*arguments) | {"code": "0" * 64}
    )

    with pytest.raises(SettingsError, match="north: it runs another version of fedmetanas"):
        run_server(machines_of(settings_of(), root, tmp_path), monkeypatch, tmp_path / "results")


def lines_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / run_folder.METRICS).read_text().splitlines()]


def test_a_site_that_is_away_is_left_out_and_never_played_by_another(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = settings_of("rounds=5", "engine.timeout=0.3", "min_replies=1", held="[]")
    grid = machines_of(settings, root, tmp_path, ("north", "south"))
    trained: list[int] = []

    def come_and_go(messages: list[Message]) -> None:
        if messages[0].metadata.message_type != MessageType.TRAIN:
            return
        trained.append(len(messages))
        if len(trained) == 2:  # it goes while it trains
            del grid.nodes[NODES["south"]]
        if len(trained) == 4:
            grid.nodes[77] = config_of("south", root, tmp_path)

    grid.before_push = come_and_go

    folder = run_server(grid, monkeypatch, tmp_path / "results")

    left = [
        [(one["client"], one["stage"]) for one in line["left_out"]] for line in lines_of(folder)
    ]
    assert left[0] == []
    assert (1, "train") in left[1]
    assert (1, "train") in left[2]
    assert left[4] == []
    assert "south left out of train: it is away" in capsys.readouterr().err
    played = {
        (node, reply.content.config_records["config"]["code"] is not None)
        for node, sent, reply in grid.walked
        if sent.metadata.message_type == MessageType.TRAIN
    }
    assert {node for node, _ in played} == {70, 31, 77}
    for node, sent, _ in grid.walked:
        config = next(iter(sent.content.config_records.values()))
        if wire.PARTITION in config:
            assert NAMES[int(config[wire.PARTITION])] == grid_name(node)


def grid_name(node: int) -> str:
    return {70: "north", 31: "south", 77: "south", 50: "west"}[node]


def test_a_run_waits_for_its_sites_and_says_for_whom(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = settings_of("engine.timeout=0.5", "min_replies=2")
    grid = machines_of(settings, root, tmp_path, ("north", "west"))

    with pytest.raises(ClientError, match=r"south not connected, for 0\.5 s \(engine\.timeout\)"):
        run_server(grid, monkeypatch, tmp_path / "results")

    assert "waiting: south not connected" in capsys.readouterr().err


def test_sites_that_have_not_answered_yet_are_not_taken_for_away(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_of("engine.timeout=0.5")
    grid = machines_of(settings, root, tmp_path)
    monkeypatch.setattr(grid, "pull_messages", lambda identities: [])

    with pytest.raises(
        ClientError, match=r"north, south, west not connected, or still reading images"
    ):
        run_server(grid, monkeypatch, tmp_path / "results")


def test_nobody_is_waited_for_when_all_have_answered_and_one_disagrees(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_of(
        "engine.wait=60", "engine.timeout=5", "data.classes=[cat, dog]"
    )  # one has another class

    with pytest.raises(SettingsError, match="its classes emu are not in"):
        run_server(machines_of(settings, root, tmp_path), monkeypatch, tmp_path / "results")


def test_a_site_that_gives_no_answer_is_waited_for_as_long_as_engine_wait_says(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = ("engine.wait=0.3", "engine.timeout=9")
    settings = settings_of(*waits, "min_replies=1", "rounds=1", held="[]")
    grid = machines_of(settings, root, tmp_path, ("north",))
    monkeypatch.setattr(grid, "get_node_ids", lambda: [*grid.nodes, NODES["south"]])

    folder = run_server(grid, monkeypatch, tmp_path / "results")

    (line,) = lines_of(folder)
    assert {(one["client"], one["reason"]) for one in line["left_out"]} == {(1, "it is away")}


def test_nobody_waits_for_a_site_that_cannot_take_part(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bound = tmp_path / "nodes.json"
    bound.write_text(json.dumps({name: str(node) for name, node in NODES.items()}))
    monkeypatch.setenv("FEDMETANAS_NODES", str(bound))
    settings = settings_of("engine.wait=99", "engine.timeout=9")
    grid = machines_of(settings, root, tmp_path)
    write_images(tmp_path / "unknown", 3, {"cat": (3, 1), "hen": (3, 1)})
    grid.nodes[NODES["north"]]["data-path"] = str(tmp_path / "unknown")
    grid.nodes[NODES["south"]]["data-path"] = str(tmp_path / "nowhere")

    with pytest.raises(SettingsError, match=r"north: its classes hen are not .*; south: DataError"):
        run_server(grid, monkeypatch, tmp_path / "results")

    assert "waiting" not in capsys.readouterr().err


def test_a_name_is_bound_to_a_node(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bound = tmp_path / "nodes.json"
    bound.write_text(json.dumps({"north": "70", "south": "1234567890123456789", "west": "50"}))
    monkeypatch.setenv("FEDMETANAS_NODES", str(bound))
    grid = machines_of(settings_of(), root, tmp_path)

    with pytest.raises(SettingsError) as caught:
        run_server(grid, monkeypatch, tmp_path / "results")

    assert str(caught.value) == "south: its key is not the one that was registered for that name"


@pytest.mark.parametrize("text", ["[]", "{", '{"north": "x"}', '{"north": null}'])
def test_a_damaged_list_of_nodes_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "nodes.json").write_text(text)
    with pytest.raises(SettingsError, match="FEDMETANAS_NODES: cannot read"):
        roster_module.read_bound(str(tmp_path / "nodes.json"))


def test_a_site_plays_no_other(root: Path, tmp_path: Path) -> None:
    settings = settings_of()
    grid = machines_of(settings, root, tmp_path)
    experiment = open_on_server(settings)
    arrays = wire.to_record(wire.to_arrays(*experiment.initial_parameters()))
    from flwr.app import ConfigRecord

    content = RecordDict({"arrays": arrays, "config": ConfigRecord({wire.PARTITION: 1})})
    (identity,) = grid.push_messages([Message(content, NODES["north"], MessageType.TRAIN)])
    (reply,) = grid.pull_messages([identity])

    assert reply.has_error()
    assert "ValueError" in reply.error.reason


@pytest.mark.parametrize("overrides", [("sites=[]", "held_out_sites=[]"), ("data.classes=[]",)])
def test_an_experiment_without_agreement_is_told_what_sites_would_agree_on(
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    overrides: tuple[str, ...],
) -> None:
    import yaml

    settings = settings_of(*overrides, "data.image_size=null")
    grid = machines_of(settings, root, tmp_path)

    with pytest.raises(SettingsError, match=r"sites must agree on data\.classes.*paste"):
        run_server(grid, monkeypatch, tmp_path / "results")

    text = capsys.readouterr().out.partition("\n\n")[2]
    assert yaml.safe_load(text) == {
        "sites": ["north", "south", "west"],
        "data": {
            "dataset": "imagefolder",
            "classes": ["cat", "dog", "emu"],
            "image_size": 9,
            "channels": 1,
        },
    }


def test_images_are_not_proposed_as_large_as_photos_are() -> None:
    import yaml

    photos = Facts("north", 2, 1, ("cat",), (), (2000, 3000), False, "", "", ())

    def side(asked: int | None) -> object:
        return yaml.safe_load(proposal([photos], asked))["data"]["image_size"]

    assert (side(None), side(64), side(4000)) == (32, 64, 2000)


def test_sites_that_are_asked_for_other_data_are_no_reason_to_wait(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ("data.classes=[]", "data.image_size=null", "data.dataset=mnist", "engine.wait=60")
    grid = machines_of(settings_of(*asked, sites="[]", held="[]"), root, tmp_path)

    with pytest.raises(SettingsError, match=r"set data\.dataset=imagefolder"):
        run_server(grid, monkeypatch, tmp_path / "results")


def test_a_site_that_gives_no_answer_does_not_keep_others_from_agreeing(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = machines_of(settings_of("data.classes=[]"), root, tmp_path, ("north",))
    monkeypatch.setattr(grid, "get_node_ids", lambda: [*grid.nodes, NODES["south"]])

    with pytest.raises(SettingsError, match="paste the lines above"):
        run_server(grid, monkeypatch, tmp_path / "results")

    assert "sites:\n- north\n" in capsys.readouterr().out


def test_a_simulation_names_all_sites_that_disagree(root: Path, tmp_path: Path) -> None:
    write_images(tmp_path / "north", 3, {"cat": (3, 1), "hen": (3, 1)})
    write_images(tmp_path / "south", 4, {"cat": (3, 1), "dog": (3, 1)}, side=7)
    settings = settings_of(f"data.root={tmp_path}", held="[]")
    experiment = open_on_server(settings)

    with pytest.raises(SettingsError) as caught:
        rehearse(experiment)

    assert "north: its classes hen" in str(caught.value)
    assert "south: its images begin at 7x7" in str(caught.value)
    here = rehearse(open_on_server(settings_of(f"data.root={root}")))
    assert [facts.site for facts in here] == list(NAMES)


# Going on


class StopError(Exception):
    """Ends a run after a round."""


def stopped_after(grid: Machines, rounds: int) -> None:
    trained: list[int] = []

    def stop(messages: list[Message]) -> None:
        if messages[0].metadata.message_type == MessageType.TRAIN:
            trained.append(1)
            if len(trained) > rounds:
                raise StopError

    grid.before_push = stop


def test_a_run_goes_on_to_the_same_bits_and_refuses_images_that_have_changed(
    deployed: tuple[Machines, Path, Path],
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import shutil

    own = tmp_path / "own"
    shutil.copytree(root, own)
    results = tmp_path / "results"
    grid = machines_of(settings_of(), own, tmp_path)
    stopped_after(grid, 2)
    with pytest.raises(StopError):
        run_server(grid, monkeypatch, results)
    extra = own / "south" / "train" / "cat" / "new.png"
    Image.fromarray(np.full((9, 9), 30, np.uint8)).save(extra)
    _opened_site.cache_clear()

    again = machines_of(settings_of(), own, tmp_path)
    with pytest.raises(SettingsError, match="south: its images have changed since the run began"):
        run_server(again, monkeypatch, results, resume=True)
    again = machines_of(settings_of(), own, tmp_path)
    with pytest.raises(SettingsError, match=r"--accept-changed: .*found 'nobody'"):
        run_server(again, monkeypatch, results, resume=True, **{"accept-changed": "nobody"})
    shutil.copytree(results, tmp_path / "copy")
    changed = machines_of(settings_of(), own, tmp_path)
    folder = run_server(
        changed, monkeypatch, tmp_path / "copy", resume=True, **{"accept-changed": "south"}
    )
    assert (folder / run_folder.SUMMARY).exists()

    extra.unlink()
    _opened_site.cache_clear()
    again = machines_of(settings_of(), own, tmp_path)
    folder = run_server(again, monkeypatch, results, resume=True)
    assert weights_in(folder) == weights_in(deployed[1])


def test_a_simulation_refuses_images_that_have_changed(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    own, out = tmp_path / "own", tmp_path / "out"
    shutil.copytree(root, own)
    settings = settings_of(f"data.root={own}")
    yaml = tmp_path / "sites.yaml"
    yaml.write_text(settings.to_yaml())
    from fedmetanas.server.record import Record

    on_round = Record.on_round

    def stop(self: Record, result: Any, state: Any) -> None:
        on_round(self, result, state)
        if state.round == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Record, "on_round", stop)
        assert main(["run", str(yaml), "--engine", "inline", "--out", str(out)]) == 130
    Image.fromarray(np.full((9, 9), 30, np.uint8)).save(own / "north" / "test" / "cat" / "n.png")
    _opened_site.cache_clear()

    assert main(["run", "--resume", str(out), "--engine", "inline"]) == 2

    assert "the images of north have changed" in capsys.readouterr().err
    again = ["run", "--resume", str(out), "--engine", "inline", "--accept-changed"]
    assert main([*again, "nobody"]) == 2
    assert "found 'nobody'" in capsys.readouterr().err
    assert main([*again, "north"]) == 0


# What leaves a site


@pytest.mark.parametrize("stage", ["hello", "train", "evaluate"])
def test_an_error_leaves_a_site_as_its_type_and_a_number(
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    stage: str,
) -> None:
    from fedmetanas.client import app as client_app
    from fedmetanas.client.numpy_client import MetaClient

    secret = "anna-smith-born-1961.png"

    def fail(*arguments: Any) -> Any:
        raise OSError(5, "cannot read", f"{root}/north/train/cat/{secret}")

    grid = machines_of(settings_of("rounds=2", "min_replies=1"), root, tmp_path)
    app = grid.client_app

    def at_north(message: Message, context: Context) -> Message:
        with pytest.MonkeyPatch.context() as patch:
            if context.node_config["site"] == "north":
                if stage == "hello":
                    patch.setattr(client_app, "facts_of", fail)
                else:
                    patch.setattr(MetaClient, "fit" if stage == "train" else "evaluate", fail)
            return app(message, context)

    grid.client_app = at_north
    ended: Any = None
    try:
        ended = run_server(grid, monkeypatch, tmp_path / "results")
    except SettingsError as error:
        ended = error

    said = capsys.readouterr()
    replies = [str(reply.error.reason) for _, _, reply in grid.walked if reply.has_error()]
    assert replies
    for reason in replies:
        words = reason.partition("\n")[2]
        kind, number = words.removeprefix("north: ").split()[:2]
        assert kind == "OSError"
        own = (tmp_path / "log-north" / "site.log").read_text()
        assert number.strip(";") in own
        assert secret in own
    left = "".join(p.read_text() for p in (tmp_path / "results").rglob("*.jsonl"))
    everything = [said.out, said.err, left, str(ended), *replies]
    everything += [str(reply) for _, _, reply in grid.walked]
    for text in everything:
        assert secret not in text
        assert str(root) not in text
    assert "OSError" in said.err + left + str(ended)


def test_no_path_that_is_sent_is_read_or_written(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = tmp_path / "chosen"
    write_images(chosen, 9, {"cat": (5, 2), "dog": (5, 2)})
    before = {path: path.stat().st_atime_ns for path in chosen.rglob("*.png")}
    settings = settings_of("rounds=1", f"data.root={chosen}", f"data.cache={chosen}/cache")
    grid = machines_of(settings, root, tmp_path)

    folder = run_server(grid, monkeypatch, tmp_path / "results", out=str(chosen / "out"))

    assert folder == tmp_path / "results" / "a-run"
    assert (folder / run_folder.SUMMARY).exists()
    assert {path: path.stat().st_atime_ns for path in chosen.rglob("*.png")} == before
    assert sorted(path.name for path in chosen.iterdir()) == ["test", "train"]
    said = capsys.readouterr().err
    for key in ("out", "data.root", "data.cache"):
        assert f"{key} is left out: no path comes over the network" in said


@pytest.mark.parametrize("name", ["../up", "a/b", "", ".", "a b"])
def test_a_name_that_is_sent_is_no_path(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    grid = machines_of(settings_of("rounds=1"), root, tmp_path)
    if name:
        with pytest.raises(SettingsError, match="name: expected"):
            run_server(grid, monkeypatch, tmp_path / "results", name=name)
        assert not (tmp_path / "results").exists() or not any((tmp_path / "results").iterdir())
    else:
        run_server(grid, monkeypatch, tmp_path / "results", name=name)
        assert [p.name.startswith("tiny-") for p in (tmp_path / "results").iterdir()] == [True]


# What a site gets


def test_every_site_keeps_the_network_that_the_server_has(
    deployed: tuple[Machines, Path, Path], root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, folder, out = deployed
    summary = json.loads((folder / run_folder.SUMMARY).read_text())
    for name in NAMES:
        kept = out / f"kept-{name}" / "a-run"
        assert weights_in(kept) == weights_in(folder)
        assert (kept / run_folder.GENOTYPE).read_bytes() == (
            folder / run_folder.GENOTYPE
        ).read_bytes()

        assert main(["evaluate", str(kept)]) == 0

        told = float(capsys.readouterr().out.split()[2])
        assert told == pytest.approx(summary["sites"][name]["before"], abs=1e-6)

    (out / "settings-only").mkdir()
    for name in (run_folder.SETTINGS, run_folder.GENOTYPE, run_folder.WEIGHTS):
        text = (folder / name).read_bytes().replace(str(root).encode(), b"nowhere")
        (out / "settings-only" / name).write_bytes(text)
    assert main(["evaluate", str(out / "settings-only")]) == 2
    assert "the images of this network are at its sites" in capsys.readouterr().err


def test_a_site_that_cannot_keep_it_is_named(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = machines_of(settings_of("rounds=1"), root, tmp_path)
    (tmp_path / "kept-north").write_text("in the way")
    del grid.nodes[NODES["south"]]["results"]

    run_server(grid, monkeypatch, tmp_path / "results")

    said = capsys.readouterr().err
    assert "north has not kept the network: north: UnwritableError" in said
    assert "south has not kept the network: its node config names no folder" in said
    assert "west has not kept" not in said


def test_a_roster_takes_a_client_of_a_copy_by_its_part(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = ("clients=2", "held_out_clients=0", "data.partition=iid", "rounds=1")
    settings = tiny.settings_of("data.cache=", *AGREED, "engine.wait=0", *overrides)
    settings = replace(settings, data=replace(settings.data, min_client_size=5))
    grid = Machines({"settings": settings.to_yaml(), "name": "a-run"}, {})
    for node, part in ((8, 1), (3, 0)):
        copy = {"data-path": str(root / "north"), "num-partitions": 2, "partition-id": part}
        grid.nodes[node] = copy

    folder = run_server(grid, monkeypatch, tmp_path / "results")

    asked = {
        (node, int(next(iter(m.content.config_records.values()))[wire.PARTITION]))
        for node, m, _ in grid.walked
        if m.metadata.message_type == MessageType.TRAIN
    }
    assert asked == {(8, 1), (3, 0)}
    assert (folder / run_folder.SUMMARY).exists()
    grid.nodes = {3: {"data-path": str(root / "north"), "num-partitions": 3, "partition-id": 0}}
    with pytest.raises(SettingsError, match="part 0 of 3, and there are 2 clients"):
        Roster(grid, open_on_server(settings), {}, {}).assemble()


# The table of the docs

MESSAGES = {
    wire.HELLO: "hello",
    MessageType.TRAIN: "train",
    MessageType.EVALUATE: "evaluate",
    MessageType.QUERY: "compare",
    wire.KEEP: "keep",
}


def table(heading: str) -> dict[str, set[str]]:
    """Return the fields of a table in the docs, by the message."""
    text = (tiny_root() / "docs" / "sites.md").read_text(encoding="utf-8")
    rows = text.partition(f"| message | {heading} |\n|---|---|\n")[2].partition("\n\n")[0]
    cells = [row.strip("|").split("|") for row in rows.splitlines()]
    return {name.strip(): set(re.findall(r"`([^`]+)`", fields)) for name, fields in cells}


def tiny_root() -> Path:
    return Path(__file__).parents[1]


def fields_of(message: Message) -> set[str]:
    """Return the names of all that a message carries, those of many arrays as one."""
    names = {name for record in message.content.values() for name in record}
    folders = ("weights/", "alphas/", "mask/", "finalists/")
    return {next((f"{f}..." for f in folders if name.startswith(f)), name) for name in names}


def test_the_docs_name_every_field_of_every_message(
    deployed: tuple[Machines, Path, Path],
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    finalists = ("strategy.name=finalists", "rounds=4", "strategy.options={search_share: 0.5}")
    other = machines_of(settings_of(*finalists), root, tmp_path)
    run_server(other, monkeypatch, tmp_path / "results")
    said, sent = table("from the site to the server"), table("from the server to the site")
    found: dict[str, set[str]] = {}
    for _, message, reply in deployed[0].walked + other.walked:
        name = MESSAGES[message.metadata.message_type]
        found[name] = found.get(name, set()) | fields_of(reply)
        extra = fields_of(message) - (
            sent["train"] if name == "evaluate" else sent.get(name, set())
        )
        assert extra == set(), name

    assert found == {name: fields for name, fields in said.items() if name != "an error"}


def test_a_site_may_keep_back_the_sizes_of_its_classes(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = machines_of(settings_of("rounds=1"), root, tmp_path)
    for config in grid.nodes.values():
        config["disclose"] = "none"

    run_server(grid, monkeypatch, tmp_path / "results")

    told = [
        fields_of(reply) for _, m, reply in grid.walked if m.metadata.message_type == wire.HELLO
    ]
    assert len(told) == 3
    assert all("class-counts" not in fields and "classes" in fields for fields in told)
