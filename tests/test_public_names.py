"""The names that people, configurations and files rely on."""

import dataclasses
import importlib
import re
import tomllib
from pathlib import Path
from typing import Any

from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

from fedmetanas.experiments.data.registry import DATASETS
from fedmetanas.experiments.engines import ENGINES, apps
from fedmetanas.experiments.experiment import Experiment
from fedmetanas.experiments.results import run_folder
from fedmetanas.experiments.settings import Settings, from_run_config
from fedmetanas.search_space.alphas import PER_CELL_NAMES
from fedmetanas.search_space.names import DEFAULT_OPERATIONS, OPERATION_NAMES, RELAXATIONS
from fedmetanas.search_space.operations import OPERATIONS
from fedmetanas.server.loop import RoundResult
from fedmetanas.strategies import wire
from fedmetanas.strategies.aggregation import RULES
from fedmetanas.strategies.registry import STRATEGIES

ROOT = Path(__file__).parent.parent
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())


def attribute(reference: str) -> Any:
    module, _, name = reference.partition(":")
    return getattr(importlib.import_module(module), name)


def test_the_command_is_there() -> None:
    assert PROJECT["project"]["scripts"] == {"fedmetanas": "fedmetanas.experiments.entry:main"}
    assert callable(attribute("fedmetanas.experiments.entry:main"))


def test_the_apps_are_where_flower_and_the_engines_look_for_them() -> None:
    components = PROJECT["tool"]["flwr"]["app"]["components"]

    assert components == {
        "serverapp": "fedmetanas.server_app:app",
        "clientapp": "fedmetanas.client_app:app",
    }
    assert components == {"serverapp": apps.SERVER_APP, "clientapp": apps.CLIENT_APP}
    assert isinstance(attribute(components["serverapp"]), ServerApp)
    assert isinstance(attribute(components["clientapp"]), ClientApp)


def test_the_run_config_has_its_keys_and_its_defaults_load() -> None:
    run_config = PROJECT["tool"]["flwr"]["app"]["config"]

    assert run_config == {
        "experiment": "digits",
        "overrides": "",
        "num-server-rounds": 0,
        "settings": "",
        "out": "",
        "name": "",
        "resume": False,
        "accept-changed": "",
    }
    assert from_run_config(run_config).name == "digits"


def test_engines() -> None:
    assert set(ENGINES) == {"ray", "inline"}


def test_strategies_and_rules() -> None:
    names = {"fedmetanas", "finalists", "fednas", "fedavg", "perfedavg", "random"}
    assert set(STRATEGIES) == names
    assert set(RULES) == {"weighted-mean", "mean", "median"}


def test_relaxations() -> None:
    assert RELAXATIONS == ("softmax", "softmax-pairs", "gumbel", "gumbel-hard")


def test_operations_in_their_order() -> None:
    assert DEFAULT_OPERATIONS == (
        "max_pool_3x3",
        "avg_pool_3x3",
        "skip_connect",
        "sep_conv_3x3",
        "sep_conv_5x5",
        "dil_conv_3x3",
        "dil_conv_5x5",
    )
    assert list(OPERATIONS) == [*DEFAULT_OPERATIONS, "none"] == OPERATION_NAMES


def test_datasets() -> None:
    assert set(DATASETS) == {
        "digits",
        "mnist",
        "fashion-mnist",
        "cifar10",
        "cifar100",
        "imagefolder",
    }


def test_files_of_a_results_folder() -> None:
    names = (
        run_folder.SETTINGS,
        run_folder.METRICS,
        run_folder.GENOTYPE,
        run_folder.WEIGHTS,
        run_folder.SUMMARY,
    )

    assert names == (
        "settings.yaml",
        "metrics.jsonl",
        "genotype.json",
        "weights.safetensors",
        "summary.json",
    )


def test_keys_of_a_message() -> None:
    assert (wire.WEIGHTS, wire.ALPHAS, wire.MASK) == ("weights/", "alphas/", "mask/")
    assert PER_CELL_NAMES == ("op_normal", "op_reduce", "input_normal", "input_reduce")


def test_sections_of_the_settings_and_fields_of_a_round() -> None:
    def names(cls: Any) -> set[str]:
        return {field.name for field in dataclasses.fields(cls)}

    assert names(Settings) == {
        *("name", "seed", "rounds", "clients", "clients_per_round", "min_replies"),
        *("held_out_clients", "sites", "held_out_sites"),
        *("data", "search", "client", "strategy", "evaluation", "engine", "checkpoint"),
    }
    assert names(RoundResult) >= {
        *(
            "round",
            "phase",
            "clients",
            "train_loss",
            "train_accuracy",
            "test_loss",
            "test_accuracy",
        ),
        *("client_accuracy", "tau", "operations_alive", "pairs_alive", "entropy", "seconds"),
        *("bytes_down", "bytes_up", "left_out"),
    }
    assert names(Experiment) == {
        *("settings", "dataset", "parts", "image_shape", "supernet", "shape", "device", "folder"),
        "own_test",
    }


# Which versions


def test_the_lowest_versions_that_are_tried_are_those_of_the_ranges() -> None:
    lowest = (ROOT / "tests" / "lowest.txt").read_text().splitlines()
    tried = dict(line.split("==") for line in lowest if not line.startswith("#"))
    ranges = [
        re.fullmatch(r"([\w-]+)(?:\[\w+\])?>=([\d.]+).*", line)
        for line in PROJECT["project"]["dependencies"]
    ]

    asked = {found[1]: found[2] for found in ranges if found}
    assert asked.keys() == tried.keys()
    others = {name for name, version in tried.items() if not f"{version}.".startswith(asked[name])}
    assert others == {"rich"}  # of which Flower itself asks for more
