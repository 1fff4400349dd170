"""What Flower keeps private is used in one file, and stands there for what is public."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import flwr
import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord
from test_house import MODULES, imported

from fedmetanas.strategies import flower

DOOR = "strategies.flower"
#: Which are programs of Flower's with a change, each of which says what is done without it.
PROGRAMS = {"experiments.federation.superlink", "experiments.sites.superexec"}
PUBLIC = {"flwr.app", "flwr.client", "flwr.clientapp", "flwr.simulation"}
PUBLIC |= {"flwr.serverapp", "flwr.serverapp.strategy"}

#: The names with one underscore in what Flower shows of itself.
PRIVATE = {
    name
    for folder in ("app", "serverapp", "clientapp")
    for path in (Path(flwr.__file__).parent / folder).rglob("*.py")
    for name in re.findall(r"(?<![\w])_[a-z]\w+", path.read_text(encoding="utf-8"))
}


def reached(path: Path) -> Iterator[str]:
    """Yield what a file uses of Flower's insides."""
    for name in imported(path, "x"):
        if name.startswith("flwr.") and not {name, name.rpartition(".")[0]} & PUBLIC:
            yield name
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    own = {node.name for node in nodes if isinstance(node, ast.FunctionDef)}
    stored = (n for n in nodes if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Store))
    own |= {node.attr for node in stored if getattr(node.value, "id", "") == "self"}
    for node in nodes:
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            if node.attr == "__dict__" or (node.attr in PRIVATE and node.attr not in own):
                yield node.attr
        elif isinstance(node, ast.Constant) and node.value in PRIVATE:
            yield str(node.value)


def test_flower_is_reached_into_in_one_file() -> None:
    found = {module: set(reached(path)) for module, path in MODULES.items()}

    assert {module for module, names in found.items() if names} == {DOOR, *PROGRAMS}
    assert found[DOOR] == {
        *("flwr.supercore.run.Run", "flwr.supercore.task_identity.TaskIdentity"),
        "flwr.superlink.grid.http_grid.HttpGrid",
        *("flwr.app.exception.AppExitException", "_check_and_log_replies"),
        *("_data", "_message_id", "__dict__"),
    }


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("from flwr.supercore.run import Run", "flwr.supercore.run.Run"),
        ("import flwr.proto.run_pb2", "flwr.proto.run_pb2"),
        ("from flwr import supercore", "flwr.supercore"),
        ("record.__dict__['_data'] = {}", "_data"),
        ("getattr(message.metadata, '_message_id')", "_message_id"),
        ("class Mine(FedAvg):\n def f(self): self._construct_messages()", "_construct_messages"),
    ],
)
def test_reaching_into_flower_would_be_seen(line: str, found: str, tmp_path: Path) -> None:
    path = tmp_path / "file.py"
    path.write_text(line)

    assert found in set(reached(path))


def test_what_is_made_is_what_flower_makes() -> None:
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    array = Array(values)
    settings = {"a": 1, "b": [0.5], "c": "x"}

    assert vars(flower.array_of(array, array.data)) == vars(array)
    pairs = [
        (flower.array_record({"a": array}), ArrayRecord({"a": array})),
        (flower.config_record(settings), ConfigRecord(settings)),
    ]
    for ours, flowers in pairs:
        assert ours == flowers
        assert ours.object_id == flowers.object_id  # a digest of what is sent
    record = flower.config_record(settings)
    with pytest.raises(TypeError):
        record["d"] = object()  # type: ignore[assignment]


def test_flowers_grid_of_machines_is_told_from_those_of_simulations() -> None:
    from flwr.superlink.grid.http_grid import HttpGrid
    from flwr.superlink.grid.inmemory_grid import InMemoryGrid

    assert HttpGrid.__module__.startswith(flower.FLOWERS_GRIDS)
    assert flower.meets_machines(HttpGrid(token="a token"))
    assert not flower.meets_machines(InMemoryGrid.__new__(InMemoryGrid))


def test_a_client_does_not_pay_for_what_is_the_servers() -> None:
    program = (
        "import sys, fedmetanas.client_app; "
        "print([n for n in ('sqlalchemy', 'sklearn', 'matplotlib', 'torchvision', 'datasets', "
        "'flwr_datasets', 'ray') if n in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)

    assert answer.stdout == "[]\n", answer.stderr
