"""Where settings come from: an experiment's YAML, the command line, Flower's run config."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedmetanas.errors import SettingsError

from .checking import (
    build,
    build_section,
    follows_from_sites,
    kind_of,
    known_settings,
    shown,
)
from .declarations import Settings
from .rules import nearest
from .yaml_text import read_text, read_yaml

FOLDER = Path(__file__).parents[1]


def experiments() -> list[str]:
    """Return the names of the experiments that are shipped, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load(experiment: str, overrides: Sequence[str] = ()) -> Settings:
    """Read an experiment and change some of its settings.

    Parameters
    ----------
    experiment : str
        A name out of :func:`experiments`, or the path of a YAML file.
    overrides : sequence of str
        ``key=value`` with the keys of the YAML, those of a section behind a dot. The value of a
        text setting is taken as it stands, any other is read as YAML.

    Raises
    ------
    SettingsError
        If the file is missing or broken, or a setting is.
    """
    if "\0" in experiment:
        raise SettingsError(f"cannot read the experiment {experiment!r}: not a path")
    path = Path(experiment)
    if path.suffix not in (".yaml", ".yml"):
        if experiment not in experiments():
            raise SettingsError(
                f"unknown experiment {experiment!r}: give the path of a .yaml file or one of "
                + ", ".join(experiments())
                + nearest(experiment, experiments())
            )
        path = FOLDER / f"{experiment}.yaml"
    return from_yaml(read_text(path), overrides, name=path.stem, source=str(path))


def from_yaml(
    text: str, overrides: Sequence[str] = (), name: str = "experiment", source: str = "settings"
) -> Settings:
    """Build settings from YAML text and ``key=value`` overrides; see :func:`load`."""
    tree = read_yaml(text, source)
    tree = {} if tree is None else tree
    if not isinstance(tree, dict):
        raise SettingsError(f"{source}: expected keys with values, found {kind_of(tree)}")
    tree.setdefault("name", name)
    if any(override.startswith(("sites=", "held_out_sites=")) for override in overrides):
        _leave_out_what_follows(tree)
    for override in overrides:
        _apply(tree, override)
    return build(tree)


def _leave_out_what_follows(tree: dict[Any, Any]) -> None:
    """Take out of a file's settings what the names of sites on the command line decide."""
    for key in follows_from_sites(Settings()):
        section, _, last = key.rpartition(".")
        inner = tree.get(section) if section else tree
        if isinstance(inner, dict):
            inner.pop(last, None)


def check_overrides(overrides: Sequence[str]) -> None:
    """Raise SettingsError if ``key=value`` is wrong whatever the experiment."""
    tree: dict[Any, Any] = {}
    for override in overrides:
        _apply(tree, override)
    build_section(Settings, tree, "")


def from_run_config(run_config: Mapping[str, Any]) -> Settings:
    """Build settings from Flower's run config.

    It has ``settings``, or ``experiment`` and ``overrides``. With ``num-server-rounds`` the
    experiment has so many rounds; 0 leaves it its own.

    An experiment is a name here, never a path: what comes over the network chooses no file.

    Raises
    ------
    SettingsError
        If there is no such experiment, a setting is wrong, or two numbers of rounds are asked for.
    """
    rounds = _rounds(run_config.get("num-server-rounds", 0))
    if text := str(run_config.get("settings", "")):
        settings = from_yaml(text, source="run config 'settings'")
        return _refuse_other_rounds(settings, rounds)
    experiment = str(run_config.get("experiment", "digits"))
    if experiment not in experiments():
        raise SettingsError(
            f"unknown experiment {experiment!r} in the run config: allowed are "
            + ", ".join(experiments())
            + nearest(experiment, experiments())
        )
    try:
        overrides = shlex.split(str(run_config.get("overrides", "")))
    except ValueError as error:
        raise SettingsError(f"overrides in the run config: {error}") from None
    own = [f"rounds={rounds}"] if rounds else []
    return _refuse_other_rounds(load(experiment, [*own, *overrides]), rounds)


def _rounds(value: Any) -> int:
    """Check ``num-server-rounds``, whose type Flower does not."""
    if type(value) is not int or not 0 <= value < 2**53:
        raise SettingsError(
            "num-server-rounds: expected a whole number, at least 0 (0: the rounds of the "
            f"experiment); found {shown(value)}"
        )
    return value


def _refuse_other_rounds(settings: Settings, rounds: int) -> Settings:
    """Raise if so many rounds were asked for, and another number elsewhere in the run config."""
    if rounds not in (0, settings.rounds):
        raise SettingsError(
            f"num-server-rounds: expected rounds={settings.rounds}, as the run config says "
            f"elsewhere, or 0; found {rounds}"
        )
    return settings


def _apply(tree: dict[Any, Any], override: str) -> None:
    """Put ``key=value`` into the tree; the value is a text as it stands, or is read as YAML."""
    key, sign, text = override.partition("=")
    if not sign or not key:
        raise SettingsError(f"expected key=value, found {override!r}, for example rounds=10")
    if not key.isprintable():
        raise SettingsError(f"unknown setting {key!r}")
    known = known_settings().get(key)
    literal = known is not None and known.kind is str
    value = text if literal else read_yaml(text, f"{key}: {shown(text)}")
    *sections, last = key.split(".")
    for section in sections:
        if tree.get(section) is None:
            tree[section] = {}
        tree = tree[section]
        if not isinstance(tree, dict):
            raise SettingsError(f"{key}: {section!r} is not a section")
    tree[last] = value
