"""Settings: one checked object; every mistake is one line that names the key and the way out."""

import contextlib
import dataclasses
import os
import random
import threading
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from fedmetanas.errors import SettingsError
from fedmetanas.experiments import settings as settings_module
from fedmetanas.experiments.comparison.variants import read_variants
from fedmetanas.experiments.data.registry import DATASETS
from fedmetanas.experiments.settings import (
    MAX_YAML_BYTES,
    Settings,
    check_overrides,
    experiments,
    from_run_config,
    from_yaml,
    load,
)
from fedmetanas.search_space.operations import OPERATIONS

EVERYTHING = """
name: all-other
seed: 7
rounds: 11
clients: 6
clients_per_round: 4
min_replies: 2
held_out_clients: 3
data: {dataset: imagefolder, root: /tmp/x y, download: true, cache: '#no comment', image_size: 24,
  classes: [cat, "7"], channels: 1, resize: squash, test_share: 0.3, skip_broken: true,
  train_images: 900,
  partition: pathological, concentration: 0.7, classes_per_client: 3, min_client_size: 12,
  support: 0.2, query: 0.4, augment: shift}
search: {channels: 5, layers: 4, nodes: 3, operations: [none, skip_connect], norm: batch,
  relaxation: gumbel-hard, tau_schedule: linear, tau_start: 2.5, tau_end: 1.0e-05, tau_rounds: 9,
  operation_threshold: 0.11, pair_threshold: 0.12, weight_free_limit: 1,
  warmup_rounds: 0}
client: {episodes: 2, batch_size: 16, inner_steps: 3, meta_start: 0.5, inner_lr: 0.3,
  inner_alpha_lr: 0.4, outer_lr: 0.5, outer_alpha_lr: 0.6, outer_lr_schedule: constant,
  momentum: 0.7, weight_decay: 0.001, clip: 1.5, second_order: true, outer_loss: all,
  adapt_steps: 0}
strategy: {name: 'flwr.serverapp.strategy:FedAdam', options: {eta: 0.01, tags: [a, {b: 1}]}}
evaluation: {every: 2, batch_size: 99}
engine: {workers: 3, device: cuda, min_nodes: 2, timeout: 12.5, wait: 1.5, versions: any}
checkpoint: {every: 4, keep: 5}
"""


def keys(cls: Any = Settings, prefix: str = "") -> list[str]:
    """List the dotted names of all settings, by a way of its own."""
    hints = typing.get_type_hints(cls)
    return [
        key
        for name, hint in hints.items()
        for key in (keys(hint, f"{name}.") if dataclasses.is_dataclass(hint) else [prefix + name])
    ]


def value_of(settings: Settings, key: str) -> Any:
    value: Any = settings
    for name in key.split("."):
        value = getattr(value, name)
    return value


def refused(text: str = "", *overrides: str) -> str:
    """Return the one line with which settings are refused."""
    with pytest.raises(SettingsError) as caught:
        from_yaml(text, overrides)
    message = str(caught.value)
    assert message
    assert len(message.splitlines()) == 1, message
    return message


# What is accepted


def test_defaults_build_and_are_consistent() -> None:
    settings = from_yaml("")

    assert settings == Settings()
    assert settings.drawn == settings.clients == 10
    assert settings.partitions == 12


def test_every_key_takes_another_value_and_keeps_it_through_yaml() -> None:
    defaults, settings = Settings(), from_yaml(EVERYTHING)

    again = from_yaml(settings.to_yaml())

    unchanged = [key for key in keys() if value_of(settings, key) == value_of(defaults, key)]
    assert unchanged == ["sites", "held_out_sites", "data.test"]  # they decide some of the others
    assert again == settings
    assert from_yaml(defaults.to_yaml()) == defaults


SITES = """
sites: [north, south-2, East_3]
held_out_sites: [west]
data: {dataset: imagefolder}
"""


def test_sites_decide_the_number_of_clients_and_keep_it_through_yaml() -> None:
    settings = from_yaml(SITES)

    assert settings.sites == ("north", "south-2", "East_3")
    assert (settings.clients, settings.held_out_clients, settings.partitions) == (3, 1, 4)
    assert (settings.data.partition, settings.engine.min_nodes) == ("sites", 1)
    assert from_yaml(settings.to_yaml()) == settings


def test_sites_on_the_command_line_go_before_numbers_in_the_file() -> None:
    text = "{clients: 9, data: {partition: iid}, engine: {min_nodes: 4}, rounds: 4}"

    settings = from_yaml(text, ["sites=[north, south]", "data.dataset=imagefolder"])

    assert (settings.clients, settings.held_out_clients, settings.rounds) == (2, 0, 4)
    assert settings.data.partition == "sites"


@pytest.mark.parametrize(
    ("text", "overrides", "key"),
    [
        (SITES + "clients: 4", (), "clients"),
        (SITES + "held_out_clients: 2", (), "held_out_clients"),
        (SITES, ("clients=2",), "clients"),
        (SITES, ("data.partition=iid",), "data.partition"),
        (SITES + "engine: {min_nodes: 3}", (), "engine.min_nodes"),
        ("", ("sites=[north]", "clients=2"), "clients"),
    ],
)
def test_what_sites_decide_cannot_be_set_beside_them(
    text: str, overrides: tuple[str, ...], key: str
) -> None:
    message = refused(text, *overrides)

    assert message.startswith(f"{key}: ")
    assert "sites" in message


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("sites=[north, north]", "sites"),
        ("sites=[../x]", "sites"),
        ("sites=['']", "sites"),
        ("sites=[1]", "sites"),
        ("sites=north", "sites"),
        ("held_out_sites=[north]", "sites"),
        ("data.partition=sites", "data.partition"),
        ("data.classes=[cat, cat]", "data.classes"),
        ("data.classes=['']", "data.classes"),
        ("sites=[north]", "data.dataset"),  # digits, of which every machine has the same
        ("data.channels=2", "data.channels"),
    ],
)
def test_names_of_sites_and_classes_are_checked(override: str, key: str) -> None:
    assert refused("", override).startswith(f"{key}: ")


def test_names_of_classes_that_look_like_numbers_stand_in_quotes() -> None:
    assert "numbers in quotes; found [0, 1]" in refused("", "data.classes=[0, 1]")
    assert from_yaml("", ["data.classes=['0', '1']"]).data.classes == ("0", "1")


def test_a_test_set_of_the_servers_own_is_for_sites() -> None:
    assert refused("", "data.test=city").startswith("data.test: expected sites")
    assert from_yaml(SITES, ["data.test=city"]).data.test == "city"


def test_a_site_cannot_train_and_be_held_out() -> None:
    message = refused("", "sites=[north, south]", "held_out_sites=[south]")
    assert message.startswith("held_out_sites: 'south'")


def test_written_yaml_is_plain_and_complete() -> None:
    tree = yaml.safe_load(from_yaml(EVERYTHING).to_yaml())

    assert {f"{s}.{k}" for s, v in tree.items() if isinstance(v, dict) for k in v} | {
        k for k, v in tree.items() if not isinstance(v, dict)
    } == set(keys())
    assert tree["search"]["operations"] == ["none", "skip_connect"]


@pytest.mark.parametrize("name", experiments())
def test_shipped_experiments_load_under_their_name(name: str) -> None:
    settings = load(name)

    assert settings.name == name
    assert from_yaml(settings.to_yaml()) == settings


def test_digits_is_shipped() -> None:
    assert "digits" in experiments()
    assert experiments() == sorted(experiments())


def test_command_line_beats_yaml_beats_defaults(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("rounds: 4\nclients: 5\nsearch:\n  nodes: 3\n  layers: 7\n")

    settings = load(str(path), ["rounds=6", "search.nodes=4", "rounds=8", "data.cache=/x=y"])

    assert settings.rounds == 8  # command line, the last one
    assert settings.search.nodes == 4  # command line, in a section that the YAML has
    assert settings.data.cache == "/x=y"  # command line, in a section that it has not
    assert settings.clients == 5  # YAML
    assert settings.search.layers == 7  # YAML, beside a key that was overridden
    assert settings.search.channels == Settings().search.channels  # default
    assert settings.name == "mine"  # from the file's name


def test_run_config_names_an_experiment_and_overrides() -> None:
    run_config = {
        "experiment": "digits",
        "overrides": "rounds=3 search.nodes=1 data.root='/a b' search.operations='[skip_connect]'",
        "settings": "",
        "out": "",
    }

    settings = from_run_config(run_config)

    expected = load("digits", ["rounds=3", "search.nodes=1"])
    assert settings.rounds == 3
    assert settings.data.root == "/a b"
    assert settings.search.operations == ("skip_connect",)
    assert settings.client == expected.client


def test_run_config_without_keys_is_digits() -> None:
    assert from_run_config({}) == load("digits")


def test_flowers_number_of_rounds_is_the_experiments() -> None:
    for rounds in (0, 7, 30):
        found = from_run_config({"num-server-rounds": rounds, "overrides": "clients=4"})
        assert found.rounds == (rounds or load("digits").rounds)
        assert found.clients == 4
    twice = {"num-server-rounds": 7, "overrides": "rounds=7"}
    assert from_run_config(twice).rounds == 7
    text = from_yaml(EVERYTHING).to_yaml()
    assert from_run_config({"settings": text, "num-server-rounds": 11}) == from_yaml(EVERYTHING)


@pytest.mark.parametrize(
    ("run_config", "words"),
    [
        ({"num-server-rounds": 7, "overrides": "rounds=8"}, "expected rounds=8"),
        ({"num-server-rounds": 7, "overrides": "rounds=7 rounds=8"}, "expected rounds=8"),
        ({"num-server-rounds": 7, "settings": "rounds: 8"}, "expected rounds=8"),
        ({"num-server-rounds": True}, "a whole number, at least 0"),
        ({"num-server-rounds": 2.0}, "a whole number, at least 0"),
        ({"num-server-rounds": "3"}, "found '3'"),
        ({"num-server-rounds": -1}, "found -1"),
        ({"num-server-rounds": 2**53}, "a whole number"),
    ],
)
def test_another_number_of_rounds_than_elsewhere_is_refused(
    run_config: dict[str, Any], words: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        from_run_config(run_config)

    assert str(caught.value).startswith("num-server-rounds: expected ")
    assert words in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_settings_of_the_run_config_are_all_that_counts() -> None:
    text = from_yaml(EVERYTHING).to_yaml()

    settings = from_run_config({"settings": text, "experiment": "nosuch", "overrides": "rounds=1"})

    assert settings == from_yaml(EVERYTHING)


@pytest.mark.parametrize(
    ("written", "value"),
    [("1e-3", 0.001), ("1.0e-3", 0.001), ("2", 2.0), ("'0.5'", 0.5), ("2.5E+1", 25.0)],
)
def test_numbers_are_read_as_people_write_them(written: str, value: float) -> None:
    from_file = from_yaml(f"client: {{inner_lr: {written}}}").client.inner_lr
    from_line = from_yaml("", [f"client.inner_lr={written}"]).client.inner_lr

    assert (from_file, type(from_file)) == (value, float)
    assert from_line == value


def test_numbers_are_decimal() -> None:
    for seed in ("010", "+10", "10"):
        assert from_yaml(f"seed: {seed}").seed == from_yaml("", [f"seed={seed}"]).seed == 10
    options = from_yaml("", ["strategy.options={a: 010, b: 1e-3, c: .5, d: -08}"]).strategy.options
    assert options == {"a": 10, "b": 0.001, "c": 0.5, "d": -8}
    assert from_yaml("client: {clip: 010}").client.clip == 10.0


@pytest.mark.parametrize("odd", ["0o10", "0x10", "0b1", "1_000", "1:30", "1:30:00.5"])
def test_numbers_of_other_notations_are_refused(odd: str) -> None:
    for key, words in (("seed", "a whole number"), ("data.concentration", "a number")):
        section, dot, name = key.rpartition(".")
        text = f"{section}: {{{name}: {odd}}}" if dot else f"{name}: {odd}"
        quoted = text.replace(odd, f"'{odd}'")
        for message in (refused(text), refused("", f"{key}={odd}"), refused(quoted)):
            assert message.startswith(f"{key}: expected {words}")
            assert f"found '{odd}'" in message
    for options in (f"{{a: {odd}}}", f"{{a: [x, {{b: {odd}}}]}}", f"{{a: {{{odd}: b}}}}"):
        message = refused("", f"strategy.options={options}")
        assert message.startswith("strategy.options: expected a section of options, its numbers d")
        assert odd in message
    assert from_yaml("", [f"strategy.options={{a: '{odd}'}}"]).strategy.options == {"a": odd}


@pytest.mark.parametrize("word", ["yes", "no", "on", "off", "y", "Yes", "1", "'true'"])
def test_a_switch_is_true_or_false(word: str) -> None:
    for message in (refused(f"data: {{download: {word}}}"), refused("", f"data.download={word}")):
        assert message.startswith("data.download: expected true or false; found ")
    assert from_yaml("", ["data.download=true"]).data.download


TEXTS = [
    *("pics # 2", "~", "null", "", "010", "1e-3", "1:30", "0x10", "1_0", "yes", "no", "on", "true"),
    *("2026-11-30", "12:30:45", "=", "<<", "[a", "'a'", '"a b"', " a ", "*x", "!!x", "é ☃", "{}"),
    *(".5", "-", "1.", ".inf", ".nan", "a: b", "a\x85b", "\ta"),
]


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_on_the_command_line_is_taken_as_it_stands(text: str) -> None:
    settings = from_yaml("", [f"data.root={text}", f"data.cache={text}"])

    assert (settings.data.root, settings.data.cache) == (text, text)
    assert from_yaml(settings.to_yaml()) == settings


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_in_quotes_stays_a_text(text: str) -> None:
    tree = {"data": {"root": text}, "strategy": {"options": {"a": [text]}}}

    settings = from_yaml(yaml.safe_dump(tree, default_style='"'))

    assert settings.data.root == text
    assert settings.strategy.options == {"a": [text]}
    assert from_yaml(settings.to_yaml()) == settings


@pytest.mark.parametrize("text", ["2026-11-30", "1:30", "0x10", "no", "<<", "="])
def test_a_text_in_a_file_is_no_day_no_number_and_no_switch(text: str) -> None:
    settings = from_yaml(f"data: {{root: {text}}}")

    assert settings.data.root == text
    assert from_yaml(settings.to_yaml()) == settings


def test_a_tilde_in_a_file_is_yamls_null() -> None:
    assert refused("data: {root: ~}").endswith("found null")
    assert from_yaml("data: {root: '~'}").data.root == "~"


def test_overrides_are_checked_without_an_experiment() -> None:
    check_overrides(["rounds=3", "clients_per_round=99", "data.root=x"])

    for wrong in ("rouns=3", "rounds=three", "rounds", "search.nodes=31", "data=3"):
        with pytest.raises(SettingsError):
            check_overrides([wrong])


def test_null_is_a_value_where_it_means_something() -> None:
    settings = from_yaml("clients_per_round: 3", ["clients_per_round=null", "engine.workers=null"])

    assert settings.clients_per_round is None
    assert settings.engine.workers is None


def test_an_empty_section_is_its_defaults() -> None:
    assert from_yaml("search:\ndata: {}\n") == Settings()


def test_limits_are_allowed_themselves() -> None:
    settings = from_yaml("clients: 4", ["clients_per_round=4", "search.tau_end=1.0"])

    assert settings.drawn == settings.clients
    assert settings.search.tau_end == settings.search.tau_start


# What is refused


@pytest.mark.parametrize(
    ("text", "key", "right"),
    [
        ("rouns: 3", "rouns", "rounds"),
        ("client_per_round: 3", "client_per_round", "clients_per_round"),
        ("search: {nods: 3}", "search.nods", "search.nodes"),
        ("client: {inner-lr: 3}", "client.inner-lr", "client.inner_lr"),
        ("nodes: 3", "nodes", "search.nodes"),
        ("second_order: true", "second_order", "client.second_order"),
        ("data: {inner_lr: 3}", "data.inner_lr", "client.inner_lr"),
        ("client: {rounds: 3}", "client.rounds", "rounds"),
    ],
)
def test_an_unknown_key_is_named_with_the_nearest_right_one(
    text: str, key: str, right: str
) -> None:
    message = refused(text)

    assert f"unknown setting {key!r}" in message
    assert f"did you mean {right!r}?" in message
    assert "allowed here: " in message


@pytest.mark.parametrize(
    ("override", "right"),
    [("nodes=3", "search.nodes"), ("serch.nodes=3", "search"), ("search.nod=3", "search.nodes")],
)
def test_an_unknown_key_on_the_command_line_gets_the_same_help(override: str, right: str) -> None:
    message = refused("", override)

    assert repr(override.split("=")[0].split(".")[0])[1:-1] in message
    assert f"did you mean '{right}" in message


def test_a_key_like_no_other_gets_no_suggestion_but_the_list() -> None:
    message = refused("zzqqxx: 3")

    assert "did you mean" not in message
    for name in (f.name for f in dataclasses.fields(Settings)):
        assert name in message.partition("allowed here: ")[2]


@pytest.mark.parametrize(
    ("text", "key", "words"),
    [
        # wrong types
        ("rounds: true", "rounds", "a whole number"),
        ("rounds: 2.0", "rounds", "a whole number"),
        ("rounds: '3'", "rounds", "a whole number"),
        ("rounds: null", "rounds", "a whole number"),
        ("rounds: [3]", "rounds", "a whole number"),
        ("rounds: 9007199254740993", "rounds", "a whole number"),
        ("clients_per_round: 1.5", "clients_per_round", "or null"),
        ("client: {clip: true}", "client.clip", "a number"),
        ("client: {clip: five}", "client.clip", "a number"),
        ("client: {clip: null}", "client.clip", "a number"),
        ("client: {second_order: 1}", "client.second_order", "true or false"),
        ("client: {second_order: 'yes'}", "client.second_order", "true or false"),
        ("data: {root: 3}", "data.root", "a text"),
        ("data: {root: null}", "data.root", "a text"),
        ("search: [1, 2]", "search", "a section of settings"),
        ("search: text", "search", "a section of settings"),
        ("search: {operations: skip_connect}", "search.operations", "a list"),
        ("search: {operations: [1]}", "search.operations", "a list"),
        ("strategy: {options: [a]}", "strategy.options", "a section of options"),
        ("strategy: {options: {1: a}}", "strategy.options", "a section of options"),
        # texts that name no file
        ('name: "a\\0b"', "name", "without NUL"),
        ('data: {root: "a\\0b"}', "data.root", "without NUL"),
        ('data: {cache: "/x\\0y"}', "data.cache", "without NUL"),
        ('data: {cache: "\\ud800"}', "data.cache", "whole characters"),
        ('strategy: {name: "a\\0:b"}', "strategy.name", "without NUL"),
        # not numbers
        ("client: {clip: .nan}", "client.clip", "a number"),
        ("client: {clip: .inf}", "client.clip", "a number"),
        ("client: {inner_lr: -.inf}", "client.inner_lr", "a number"),
        ("client: {inner_lr: 'nan'}", "client.inner_lr", "a number"),
        ("client: {inner_lr: 1e999}", "client.inner_lr", "a number"),
        (f"client: {{inner_lr: 1{'0' * 400}}}", "client.inner_lr", "a number"),
        ("client: {outer_lr: 1e308}", "client.outer_lr", "up to 3.4e38"),
        ("client: {weight_decay: 3.5e38}", "client.weight_decay", "up to 3.4e38"),
        ("search: {tau_start: 1e39}", "search.tau_start", "up to 3.4e38"),
        ("strategy: {options: {a: 0x" + "f" * 5000 + "}}", "strategy.options", "a section"),
        # impossible values
        ("rounds: 0", "rounds", "at least 1"),
        ("seed: -1", "seed", "at least 0"),
        ("held_out_clients: -1", "held_out_clients", "at least 0"),
        ("clients_per_round: 0", "clients_per_round", "at least 1"),
        ("name: a/b", "name", "names a folder"),
        ("name: ../x", "name", "names a folder"),
        ("name: ''", "name", "names a folder"),
        ("data: {support: 0}", "data.support", "greater than 0 and less than 1"),
        ("data: {query: 1}", "data.query", "greater than 0 and less than 1"),
        ("data: {concentration: 0}", "data.concentration", "greater than 0"),
        ("data: {min_client_size: 2}", "data.min_client_size", "at least 3"),
        ("data: {partition: idd}", "data.partition", "iid, dirichlet, pathological"),
        ("data: {image_size: 4}", "data.image_size", "from 8 to 4096"),
        ("search: {norm: layer}", "search.norm", "batch, group"),
        (
            "search: {relaxation: hard}",
            "search.relaxation",
            "softmax, softmax-pairs, gumbel, gumbel-hard",
        ),
        ("search: {tau_schedule: cosine}", "search.tau_schedule", "exponential, linear, constant"),
        ("search: {tau_end: 0}", "search.tau_end", "greater than 0"),
        ("search: {operation_threshold: 1}", "search.operation_threshold", "less than 1"),
        ("search: {operations: []}", "search.operations", "skip_connect"),
        ("search: {operations: [conv_9x9]}", "search.operations", "skip_connect"),
        ("search: {operations: [none, none]}", "search.operations", "different operations"),
        ("search: {operations: [none]}", "search.operations", "at least one beside none"),
        ("client: {momentum: 1}", "client.momentum", "from 0 to 0.999"),
        ("client: {outer_lr: -0.1}", "client.outer_lr", "at least 0"),
        ("client: {clip: 0}", "client.clip", "greater than 0"),
        ("client: {batch_size: 0}", "client.batch_size", "from 1 to 10000"),
        ("client: {batch_size: 10001}", "client.batch_size", "from 1 to 10000"),
        ("client: {inner_steps: 101}", "client.inner_steps", "from 0 to 100"),
        ("evaluation: {batch_size: 10001}", "evaluation.batch_size", "from 1 to 10000"),
        ("evaluation: {every: 0}", "evaluation.every", "at least 1"),
        ("engine: {device: gpu}", "engine.device", "cpu or cuda"),
        ("engine: {workers: 0}", "engine.workers", "at least 1"),
        ("engine: {timeout: 0}", "engine.timeout", "greater than 0"),
        ("checkpoint: {every: -1}", "checkpoint.every", "at least 0"),
        ("checkpoint: {keep: 0}", "checkpoint.keep", "at least 1"),
        ("search: {nodes: 1000000000}", "search.nodes", "from 1 to 30"),
        # impossible together
        ("{clients: 3, clients_per_round: 4}", "clients_per_round", "at most clients=3"),
        ("{clients: 3, min_replies: 4}", "min_replies", "at most the 3 clients"),
        (
            "search: {nodes: 30, layers: 6}",
            "search.layers, search.nodes, search.operations",
            "at most 20,000 operations in the supernet; found 20,790",
        ),
        (
            "{clients: 3, held_out_clients: 1, engine: {min_nodes: 5}}",
            "engine.min_nodes",
            "at most the 4 clients",
        ),
        ("data: {support: 0.5, query: 0.5}", "data.query", "less than 1"),
        ("search: {tau_start: 0.5, tau_end: 0.6}", "search.tau_end", "search.tau_start=0.5"),
        ("strategy: {name: no-such}", "strategy.name", "package.module:Class"),
    ],
)
def test_a_wrong_value_is_refused_with_what_is_allowed(text: str, key: str, words: str) -> None:
    message = refused(text)

    assert message.startswith(f"{key}: expected ")
    assert words in message
    assert "found" in message


def test_an_unknown_dataset_gets_the_list_and_the_nearest() -> None:
    message = refused("data: {dataset: cifar}")

    assert all(name in message for name in DATASETS)
    assert "did you mean 'cifar1" in message


def test_a_name_out_of_some_is_asked_for_without_more_words() -> None:
    assert refused("", "engine.device=gpu") == "engine.device: expected cpu or cuda; found 'gpu'"
    assert refused("", "data.partition=idd") == (
        "data.partition: expected one of iid, dirichlet, pathological, sites; found 'idd'; "
        "did you mean 'iid'?"
    )


def test_an_unknown_operation_gets_the_list() -> None:
    message = refused("", "search.operations=[sep_conv_3x3, sep_conv_4x4]")

    assert "sep_conv_4x4" in message
    assert all(name in message for name in OPERATIONS)


@pytest.mark.parametrize("override", ["rounds", "=3", "", "--rounds 3"])
def test_an_override_needs_a_key_and_a_value(override: str) -> None:
    message = refused("", override)

    assert "key=value" in message
    assert repr(override) in message


def test_an_override_below_a_plain_value_is_refused() -> None:
    assert refused("rounds: 3", "rounds.x=3").startswith("rounds.x: 'rounds' is not a section")


def test_an_override_that_is_broken_yaml_names_its_key() -> None:
    assert refused("", "search.operations=[a").startswith("search.operations: '[a'")


@pytest.mark.parametrize(
    "text",
    ["rounds: [", "a: b: c", "\trounds: 3", "rounds: \x07", "%", "? [1]\n: 2", "--- 1\n--- 2"],
)
def test_broken_yaml_is_one_line(text: str) -> None:
    assert "is not valid YAML" in refused(text)


@pytest.mark.parametrize("text", ["- rounds\n- 3", "rounds", "3", "true"])
def test_yaml_that_is_no_mapping_is_refused(text: str) -> None:
    assert "expected keys with values" in refused(text)


def test_yaml_never_makes_objects() -> None:
    message = refused("name: !!python/object/apply:os.getcwd []")

    assert "tags are not allowed" in message


def test_aliases_are_refused_before_they_are_expanded() -> None:
    laughs = "a0: &a0 [lol, lol]\n" + "".join(
        f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 30)
    )

    assert "aliases" in refused(laughs)
    assert "aliases" in refused("data: &d {root: x}\nsearch: *d")


def test_an_ampersand_in_a_text_is_no_alias() -> None:
    assert from_yaml("data: {root: 'R&D *'}").data.root == "R&D *"


def test_deep_nesting_is_refused_in_one_line() -> None:
    assert "not valid YAML" in refused("rounds: " + "[" * 5000)


def test_an_enormous_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "big.yaml"
    path.write_text("rounds: 3\n#" + "x" * MAX_YAML_BYTES)

    with pytest.raises(SettingsError, match=r"big\.yaml: expected at most 1000000 bytes"):
        load(str(path))


@pytest.mark.parametrize("read", [load, lambda path: read_variants(Path(path))])
def test_no_more_of_an_endless_file_is_read_than_it_may_have(
    read: Callable[[str], Any], tmp_path: Path
) -> None:
    path = tmp_path / "endless.yaml"
    os.mkfifo(path)
    taken = []

    def write() -> None:
        with contextlib.suppress(BrokenPipeError), path.open("wb", buffering=0) as file:
            for _ in range(100):
                taken.append(file.write(b"#" * 100_000))

    writer = threading.Thread(target=write)
    writer.start()
    with pytest.raises(SettingsError, match=r"endless\.yaml: expected at most 1000000 bytes"):
        read(str(path))
    writer.join()

    assert sum(taken) < 2_000_000


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        load(str(tmp_path / "none.yaml"))

    assert str(tmp_path / "none.yaml") in str(caught.value)
    assert "No such file" in str(caught.value)


def test_a_folder_and_a_binary_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "folder.yaml").mkdir()
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")

    for name in ("folder.yaml", "binary.yaml"):
        with pytest.raises(SettingsError, match=name):
            load(str(tmp_path / name))


def test_errors_in_a_file_name_the_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("- a list")

    with pytest.raises(SettingsError, match=r"mine\.yaml: expected keys"):
        load(str(path))


def test_a_misspelt_experiment_gets_the_nearest_name() -> None:
    with pytest.raises(SettingsError) as caught:
        load("digit")

    assert "unknown experiment 'digit'" in str(caught.value)
    assert "did you mean 'digits'?" in str(caught.value)


@pytest.mark.parametrize("up", ["", "../experiments/"])
def test_the_run_config_cannot_choose_a_file(tmp_path: Path, up: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("rounds: 3")
    experiment = f"{settings_module.FOLDER}/{up}digits.yaml" if up else str(path)
    assert load(experiment).name in ("digits", "mine")  # a person may

    with pytest.raises(SettingsError, match="in the run config: allowed are "):
        from_run_config({"experiment": experiment})


def test_overrides_of_the_run_config_are_checked() -> None:
    with pytest.raises(SettingsError, match=r"did you mean 'search\.nodes'"):
        from_run_config({"overrides": "nodes=3"})


def test_the_object_cannot_be_changed() -> None:
    settings = Settings()

    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.rounds = 3  # type: ignore[misc]
    assert settings.rounds == Settings().rounds


# Anything at all


JUNK = [
    "", "null", "true", "0", "-1", "1", "3", "1" + "0" * 22, "0.5", "-0.5", "1e-3", "1e999",
    ".nan", "-.inf", "text", "''", "'3'", "[]", "[1]", "[skip_connect]", "[[[]]]", "{}", "{a: 1}",
    "{1: 2}", "[", "}", "a: b: c", "*x", "&x 1", "!!python/none", "2020-01-01", "12:30:45", "0o17",
    "0x" + "f" * 300, "9" * 4999, "~", "%", "@", "`", "\\", "\x07", "é", "☃", "/", "..",
    "x" * 3000, "a\nb", "iid", "cuda", "digits", "gumbel",
]  # fmt: skip


def test_fuzz_every_key_with_junk_gives_settings_or_an_error_that_names_the_key() -> None:
    draw = random.Random(0)
    cases = [(key, value) for key in keys() for value in JUNK]
    refusals = 0
    for key, value in draw.sample(cases, 500):
        try:
            settings = from_yaml("", [f"{key}={value}"])
        except SettingsError as error:
            message, settings = str(error), None
        if settings is None:
            refusals += 1
            assert key in message, (key, value)
            assert len(message.splitlines()) == 1, (key, value)
        else:
            assert from_yaml(settings.to_yaml()) == settings, (key, value)
    assert 100 < refusals < 490  # both ways were taken


def test_a_giant_hexadecimal_number_is_refused() -> None:
    assert refused("rounds: 0x" + "f" * 5000).startswith("rounds: expected a whole number")


def test_a_quote_left_open_in_the_overrides_is_refused() -> None:
    with pytest.raises(SettingsError, match="overrides"):
        from_run_config({"overrides": "data.root='/a b"})


def test_overrides_have_no_aliases_either() -> None:
    assert "strategy.options" in refused("", "strategy.options={a: &x [*x]}")


@pytest.mark.parametrize("value", ["!!bool maybe", "!!timestamp soon"])
def test_a_yaml_tag_that_does_not_fit_is_refused(value: str) -> None:
    assert "not valid YAML" in refused(f"rounds: {value}")
    assert refused("", f"rounds={value}").startswith("rounds: ")


def test_a_section_left_empty_in_the_file_can_be_overridden() -> None:
    assert from_yaml("search:\n", ["search.nodes=3"]).search.nodes == 3


def test_a_nul_in_a_path_is_refused() -> None:
    with pytest.raises(SettingsError, match="cannot read the experiment"):
        load("/tmp/x\0.yaml")


def test_a_dotted_key_in_the_file_is_not_suggested_to_itself() -> None:
    assert "did you mean 'search.nodes'" not in refused("search.nodes: 3")


def test_a_key_with_a_line_break_is_still_one_line() -> None:
    assert "unknown setting" in refused("", "a\nb=[")


def test_a_file_may_be_named_with_underscores(tmp_path: Path) -> None:
    path = tmp_path / "my_digits.yaml"
    path.write_text("rounds: 3")

    assert load(str(path)).rounds == 3


def test_a_key_given_twice_is_refused() -> None:
    assert "rounds" in refused("rounds: 2\nrounds: 3")
