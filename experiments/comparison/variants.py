"""Variants of an experiment, which ``fedmetanas compare`` runs side by side: baselines, ablations.

They are declared in YAML, those that are shipped in the folder ``variants``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedmetanas.errors import SettingsError
from fedmetanas.experiments.settings import NAME, Settings, load, nearest, read_text, read_yaml

FOLDER = Path(__file__).parent / "variants"
KEYS = ("about", "settings", "times_rounds")


@dataclass(frozen=True)
class Variant:
    """What is changed in an experiment.

    Attributes
    ----------
    name : str
        Names its folder.
    about : str
        One line for the table.
    settings : tuple of str
        ``key=value``; they win over those of the command line.
    times_rounds : float
        How many times the experiment's rounds it runs, > 0.
    """

    name: str
    about: str
    settings: tuple[str, ...]
    times_rounds: float

    def of(self, experiment: str, overrides: Sequence[str], seed: int) -> Settings:
        """Return the settings of a run.

        Raises
        ------
        SettingsError
            If the experiment, an override or the variant is wrong.
        """
        rounds = load(experiment, overrides).rounds
        own = [*self.settings, f"rounds={max(1, round(self.times_rounds * rounds))}"]
        return load(experiment, [*overrides, *own, f"seed={seed}"])


def read_variants(file: Path | None = None) -> dict[str, Variant]:
    """Read the variants that are shipped and, if one is given, those of a file.

    Raises
    ------
    SettingsError
        If a file cannot be read or is not one of variants, or a name stands twice.
    """
    variants: dict[str, Variant] = {}
    for path in [*sorted(FOLDER.glob("*.yaml")), *([file] if file else [])]:
        tree = read_yaml(read_text(path), str(path))
        if not isinstance(tree, dict):
            raise SettingsError(f"{path}: expected names of variants")
        for name, declared in tree.items():
            if name in variants:
                raise SettingsError(f"{path}: the variant {name!r} is declared twice")
            variants[name] = _variant(name, declared, f"{path}: {name!r}")
    return variants


def _variant(name: Any, declared: Any, where: str) -> Variant:
    """Check what a file says of one variant."""
    if not isinstance(name, str) or not NAME.holds(name):
        raise SettingsError(f"{where}: expected a name of {NAME.words}")
    if not isinstance(declared, Mapping) or not set(declared) <= set(KEYS):
        raise SettingsError(f"{where}: expected the keys {', '.join(KEYS)}")
    about, times = declared.get("about", ""), declared.get("times_rounds", 1)
    settings = declared.get("settings", [])
    if not isinstance(about, str) or len(about.splitlines()) > 1:
        raise SettingsError(f"{where}: about: expected one line")
    if not isinstance(settings, list) or not all(isinstance(text, str) for text in settings):
        raise SettingsError(f"{where}: settings: expected a list of key=value")
    if isinstance(times, bool) or not isinstance(times, int | float) or not 0 < times <= 1000:
        raise SettingsError(f"{where}: times_rounds: expected a number above 0, at most 1000")
    return Variant(name, about, tuple(settings), float(times))


def choose(names: Sequence[str], variants: Mapping[str, Variant], option: str) -> list[Variant]:
    """Return the variants of some names, in their order; `option` is what messages name.

    Raises
    ------
    SettingsError
        If there is no such name, or one stands twice.
    """
    for name in names:
        if name not in variants:
            known = ", ".join(variants)
            hint = nearest(name, list(variants))
            raise SettingsError(f"{option}: expected one of {known}; found {name!r}{hint}")
        if names.count(name) > 1:
            raise SettingsError(f"{option}: {name!r} stands twice")
    return [variants[name] for name in names]
