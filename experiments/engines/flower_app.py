"""The app that Flower is given, as a folder: this package and its ``pyproject.toml``.

From a checkout and from a wheel it is the same, and no more than what runs.
"""

import shutil
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import fedmetanas
from fedmetanas.errors import SettingsError
from fedmetanas.experiments.code_digest import PACKAGES

PROJECT = "pyproject.toml"
KINDS = (".py", ".yaml")  # of the files that run


def make_app(folder: Path) -> None:
    """Copy the package as it runs here into an empty folder, from which Flower takes an app.

    Raises
    ------
    SettingsError
        If the description of the app is nowhere.
    """
    (folder / PROJECT).write_text(_project(), encoding="utf-8")
    package, *others = map(Path, fedmetanas.__path__)
    target = folder / fedmetanas.__name__
    target.mkdir()
    for path in package.glob("*.py"):
        shutil.copyfile(path, target / path.name)
    for name in PACKAGES:
        (source,) = (place / name for place in (package, *others) if (place / name).is_dir())
        shutil.copytree(source, target / name, ignore=_what_does_not_run)


def _project() -> str:
    """Return the text of ``pyproject.toml``: a wheel has it beside its metadata."""
    beside = Path(fedmetanas.__path__[-1]) / PROJECT
    if beside.is_file():
        return beside.read_text(encoding="utf-8")
    try:
        text = distribution(fedmetanas.__name__).read_text(f"extra_metadata/{PROJECT}")
    except PackageNotFoundError:
        text = None
    if text is None:
        raise SettingsError(
            f"the package in {beside.parent} has no {PROJECT}; install fedmetanas with pip"
        )
    return text


def _what_does_not_run(folder: str, names: list[str]) -> list[str]:
    return [
        name
        for name in names
        if name == "__pycache__"
        or not ((Path(folder) / name).is_dir() or Path(name).suffix in KINDS)
    ]
