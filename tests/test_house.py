"""The house: which file may import which, how long files are, and what a wheel holds."""

import ast
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder

import fedmetanas

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
HOUSE = ("search_space", "strategies", "experiments", "client", "server", "benchmarks")

#: What opens an experiment.
OPENING = ("settings", "sites", "node", "client_data", "limits", "experiment", "rehearsal")

#: The floors, from the ground up. A file stands where the longest of these names begins its own,
#: and may import files of its own floor and of those below.
FLOORS = (
    ("errors",),
    ("search_space.kernels",),
    tuple(f"search_space.{name}" for name in ("names", "alphas", "modules", "operations")),
    ("search_space.execution",),
    ("search_space",),
    ("strategies",),
    tuple(
        f"experiments.{name}"
        for name in ("console", "randomness", "files", "entry", "code_digest", "surroundings")
    ),
    ("experiments.data",),
    tuple(f"experiments.{name}" for name in OPENING),
    ("experiments.results",),
    ("experiments.engines",),
    ("experiments.report",),
    ("experiments.run", "experiments.trial", "experiments.federation"),
    ("experiments.comparison",),
    ("experiments.commands",),
    ("benchmarks",),
    ("",),  # the package itself: the public face
)
RESULTS, REPORT = (
    next(number for number, names in enumerate(FLOORS) if name in names)
    for name in ("experiments.results", "experiments.report")
)
#: Started by name, and importing neither each other nor what starts them.
APPS = ("client", "server")
#: The names by which Flower starts them.
ENTRANCES = ("client_app", "server_app")

LONGEST = 300  # lines
#: Files that are longer, and why they are not two.
LONGER: dict[str, str] = {}


def files() -> dict[str, Path]:
    """Return every file of the package by the name of its module, without ``fedmetanas.``."""
    found = {}
    for folder in ("fedmetanas", *HOUSE):
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            parts = parts[1:] if folder == "fedmetanas" else parts
            found[".".join(parts).removesuffix("__init__").removesuffix(".")] = path
    return found


MODULES = files()


def imported(path: Path, module: str = "") -> Iterator[str]:
    """Yield the full name of all that a file imports, wherever in it."""
    package = ["fedmetanas", *module.split(".")] if module else ["fedmetanas"]
    package = package if path.name == "__init__.py" else package[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def ours(path: Path, module: str) -> set[str]:
    """Return the modules of the package that a file imports."""
    found = set()
    for name in imported(path, module):
        if name.partition(".")[0] != "fedmetanas":
            continue
        inner = name.partition(".")[2]
        while inner not in MODULES:  # the name of something in a module
            inner = inner.rpartition(".")[0]
        if inner or name == "fedmetanas":
            found.add(inner)
    return found


IMPORTS = {module: ours(path, module) for module, path in MODULES.items()}


def floor(module: str) -> int:
    """Return the number of a module's floor."""
    places = {
        name: number
        for number, names in enumerate(FLOORS)
        for name in names
        if module == name or module.startswith(f"{name}.") or not name
    }
    return places[max(places, key=len)]


def may_import(module: str, other: str) -> bool:
    """Return whether a module may import another."""
    room, of_other = module.partition(".")[0], other.partition(".")[0]
    if room in ("benchmarks", "__main__"):
        return True
    if room in APPS and room == of_other:
        return True
    if room in ENTRANCES:
        return other == f"{room.removesuffix('_app')}.app"
    if room == "client":
        return of_other not in APPS and floor(other) <= RESULTS
    if room == "server":
        return of_other not in APPS and (floor(other) <= RESULTS or floor(other) == REPORT)
    return of_other not in APPS and floor(other) <= floor(module)


def test_files_stand_on_the_floors_below() -> None:
    wrong = {
        f"{module} -> {other}"
        for module, others in IMPORTS.items()
        for other in others - {""}
        if not may_import(module, other)
    }

    assert wrong == set()


def test_every_file_has_a_floor_of_its_own() -> None:
    without = {
        module
        for module in MODULES
        if floor(module) == len(FLOORS) - 1
        and not module.startswith(("client", "server"))
        and module not in ("", "__main__", "experiments", *ENTRANCES)
    }

    assert without == set()
    assert floor("search_space.supernet") > floor("search_space.execution.wide") > 1


def test_no_files_import_each_other_in_a_circle() -> None:
    TopologicalSorter(IMPORTS).prepare()  # raises if there is a circle


def test_a_forbidden_import_would_be_seen(tmp_path: Path) -> None:
    module, path = "client.learner", tmp_path / "learner.py"
    path.write_text("def f():\n    from fedmetanas.server import loop\n    from . import app\n")

    assert ours(path, module) == {"server.loop", "client.app"}
    assert may_import(module, "client.app")
    assert not may_import(module, "server.loop")
    assert not may_import("server.loop", "experiments.engines.ray")
    assert not may_import("search_space.kernels.sums", "search_space.supernet")


@pytest.mark.parametrize("folder", [*HOUSE, "fedmetanas", "tests", "examples"])
def test_nothing_is_imported_by_its_name_at_the_top_of_the_repository(folder: str) -> None:
    paths = sorted((ROOT / folder).rglob("*.py"))

    old = {
        f"{path.name}: {name}"
        for path in paths
        for name in imported(path, "x")
        if name.partition(".")[0] in HOUSE
    }

    assert paths
    assert old == set()


def test_files_are_short() -> None:
    lengths = {module: len(path.read_text().splitlines()) for module, path in MODULES.items()}

    assert {module for module, lines in lengths.items() if lines > LONGEST} == set(LONGER)
    assert len(LONGER) <= 3


def test_no_file_has_a_name_that_flower_leaves_out_of_an_app() -> None:
    names = {module.rpartition(".")[2] for module in MODULES}

    assert {name for name in names if name.startswith("test_") or name.endswith("_test")} == set()


def test_the_search_space_is_plain_pytorch() -> None:
    names = {
        name.partition(".")[0]
        for module, path in MODULES.items()
        if module.startswith("search_space")
        for name in imported(path, module)
    }

    assert names & {"flwr", "ray", "pathlib", "os"} == set()
    assert "torch" in names


def test_the_package_costs_no_torch_and_knows_its_version() -> None:
    heavy = ("torch", "flwr", "ray", "numpy")
    program = f"import sys, fedmetanas; print([n for n in {heavy} if n in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)

    assert answer.stdout == "[]\n"
    assert fedmetanas.__version__ == PROJECT["project"]["version"]


@pytest.mark.parametrize(("first", "second"), [ENTRANCES, ENTRANCES[::-1]])
def test_one_app_is_found_while_another_thread_still_makes_the_package(
    first: str, second: str
) -> None:
    program = f"""
import threading, time
from importlib.machinery import SourceFileLoader
from flwr.supercore.object_ref import load_app, validate

begun, whole, execute = threading.Event(), threading.Event(), SourceFileLoader.exec_module

def slowly(loader, module):
    if module.__name__ == "fedmetanas":
        begun.set()
        time.sleep(1)
        assert not whole.is_set()
    execute(loader, module)

def load_second():
    begun.wait()
    print(*validate("fedmetanas.{second}:app"))
    load_app("fedmetanas.{second}:app", RuntimeError)
    whole.set()

SourceFileLoader.exec_module = slowly
other = threading.Thread(target=load_second)
other.start()
import fedmetanas.{first}
other.join()
print(whole.is_set())
"""
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)

    assert answer.stdout == "True None\nTrue\n", answer.stderr


# The wheels


def names_in_wheel(folder: Path, kind: str) -> list[str]:
    (wheel,) = WheelBuilder(str(ROOT)).build(directory=str(folder), versions=[kind])
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def test_the_wheel_holds_the_package_and_nothing_beside_it(tmp_path: Path) -> None:
    names = set(names_in_wheel(tmp_path, "standard"))

    outside = {name for name in names if not name.startswith("fedmetanas")}
    wanted = {
        f"fedmetanas/{path.relative_to(ROOT).as_posix().removeprefix('fedmetanas/')}"
        for path in (*MODULES.values(), *(ROOT / "experiments").rglob("*.yaml"))
    }
    assert outside == set()
    assert wanted | {"fedmetanas/py.typed"} <= names


def test_the_editable_wheel_holds_a_path_alone(tmp_path: Path) -> None:
    names = names_in_wheel(tmp_path, "editable")

    inside = [name for name in names if ".dist-info/" not in name]
    assert inside == ["_fedmetanas.pth"]
