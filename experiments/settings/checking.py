"""From a tree of plain values to checked settings, or to one line that says what is wrong."""

import difflib
import os
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from functools import cache
from typing import Any

from fedmetanas.errors import SettingsError

from .declarations import Settings
from .rules import Rule, nearest
from .together import check_together
from .yaml_text import NUMBER, OddNumber

LARGEST_NUMBER = 3.4e38  # that float32 holds, in which all is computed

_TYPE_WORDS: dict[Any, str] = {
    int: "a whole number",
    float: "a number up to 3.4e38",
    bool: "true or false",
    str: "a text of whole characters, without NUL",
    tuple: "a list of texts",
    Mapping: "a section of options, its numbers decimal",
}


@dataclass(frozen=True)
class Known:
    """A setting that there is.

    Attributes
    ----------
    about : str
        What it means, in a sentence.
    kind : type
        Of its values: int, float, bool, str, tuple or Mapping.
    optional : bool
        Whether null is a value, too.
    default : any
        Its default.
    rule : Rule or None
        What a value must satisfy besides.
    """

    about: str
    kind: Any
    optional: bool
    default: Any
    rule: Rule | None

    @property
    def words(self) -> str:
        """What its values may be."""
        rule = self.rule
        words = [] if rule and rule.complete else [_TYPE_WORDS[self.kind]]
        words += [rule.words] if rule else []
        return ", ".join(words) + (", or null" if self.optional else "")


@cache
def known_settings() -> dict[str, Known]:
    """Return all settings by their dotted keys, in the order of their declaration."""
    return _known(Settings, "")


def known_sections() -> dict[str, str]:
    """Return what each section of the settings is about, by its name."""
    hints = typing.get_type_hints(Settings)
    return {name: hint.__doc__ or "" for name, hint in hints.items() if is_dataclass(hint)}


def _known(cls: Any, prefix: str) -> dict[str, Known]:
    found: dict[str, Known] = {}
    hints = typing.get_type_hints(cls)
    for declared in fields(cls):
        hint, key = hints[declared.name], prefix + declared.name
        if is_dataclass(hint):
            found |= _known(hint, f"{key}.")
            continue
        optional = isinstance(hint, types.UnionType)
        wanted = typing.get_args(hint)[0] if optional else hint
        default = declared.default
        if declared.default_factory is not MISSING:
            default = declared.default_factory()
        about, rule = declared.metadata["about"], declared.metadata["rule"]
        found[key] = Known(about, typing.get_origin(wanted) or wanted, optional, default, rule)
    return found


def build(tree: Any) -> Settings:
    """Build settings from a tree of keys and values, checking each of them and all together.

    Raises
    ------
    SettingsError
        If a key is unknown, or a value is not allowed.
    """
    settings: Settings = build_section(Settings, tree, "")
    if settings.sites or settings.held_out_sites:
        settings = _with_sites(settings, tree)
    check_together(settings)
    return settings


def follows_from_sites(settings: Settings) -> dict[str, Any]:
    """Return the settings that the names of sites decide, by their dotted keys."""
    return {
        "clients": len(settings.sites),
        "held_out_clients": len(settings.held_out_sites),
        "data.partition": "sites",
        "engine.min_nodes": 1,
    }


def _with_sites(settings: Settings, tree: Any) -> Settings:
    """Return settings with what follows from the names of sites.

    Raises
    ------
    SettingsError
        If something else was asked for.
    """
    follows = follows_from_sites(settings)
    for key, value in follows.items():
        section, _, last = key.rpartition(".")
        asked = ((tree.get(section) or {}) if section else tree).get(last, value)
        if asked != value:
            raise SettingsError(
                f"{key}: follows from the names in sites and held_out_sites: {shown(value)}; found "
                f"{shown(asked)}; leave it out, or leave out sites"
            )
    return replace(
        settings,
        clients=follows["clients"],
        held_out_clients=follows["held_out_clients"],
        data=replace(settings.data, partition=follows["data.partition"]),
        engine=replace(settings.engine, min_nodes=follows["engine.min_nodes"]),
    )


def build_section(cls: Any, tree: Any, prefix: str) -> Any:
    """Build the dataclass `cls` from a mapping, checking every key and value by itself."""
    if not isinstance(tree, dict):
        section = prefix.rstrip(".")
        raise SettingsError(f"{section}: expected a section of settings, found {kind_of(tree)}")
    hints = typing.get_type_hints(cls)
    values = {}
    for name, value in tree.items():
        key = f"{prefix}{name}"
        if name not in hints:
            raise unknown_setting(key, prefix)
        if is_dataclass(hints[name]):
            values[name] = build_section(hints[name], {} if value is None else value, f"{key}.")
        else:
            values[name] = _checked(value, key)
    return cls(**values)


def unknown_setting(key: str, prefix: str = "") -> SettingsError:
    """Return the error that says that a key is unknown, and what it was perhaps meant to be.

    It names all settings that begin with `prefix`, that of a section with its dot.
    """
    everywhere = list(known_settings())
    here = [k for k in everywhere if k.startswith(prefix)] if prefix else _at_the_top()
    last = key.rpartition(".")[2]
    if key in everywhere:  # the dotted key itself, at the top of a file
        section, _, name = key.partition(".")
        return SettingsError(
            f"unknown setting {key!r}; in a file write {name!r} inside the section {section!r}"
        )
    same_name = [k for k in everywhere if k.rpartition(".")[2] == last]
    close = same_name or difflib.get_close_matches(key, here + everywhere, n=1, cutoff=0.5)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return SettingsError(f"unknown setting {key!r}{hint} (allowed here: {', '.join(here)})")


def _at_the_top() -> list[str]:
    return [declared.name for declared in fields(Settings)]


def _checked(value: Any, key: str) -> Any:
    """Return the value in its type, or raise with the key, what is allowed and what was found."""
    known = known_settings()[key]
    if known.optional and value is None:
        return None
    converted = _converted(value, known.kind)
    if converted is None or (known.rule and not known.rule.holds(converted)):
        names = known.rule.names if known.rule else ()
        hint = nearest(value, names) if isinstance(value, str) else ""
        raise SettingsError(f"{key}: expected {known.words}; found {shown(value)}{hint}")
    return converted


def _converted(value: Any, kind: Any) -> Any:
    """Return `value` as the wanted kind, or None if it is not of that kind."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if kind is float:
        if isinstance(value, str) and NUMBER.fullmatch(value):  # in quotes, as in older files
            value, number = float(value), True
        return float(value) if number and abs(value) <= LARGEST_NUMBER else None
    if kind is int:
        return value if isinstance(value, int) and number and abs(value) < 2**53 else None
    if kind is bool:
        return value if isinstance(value, bool) else None
    if kind is str:
        return str(value) if isinstance(value, str) and _fits_a_path(value) else None
    if kind is tuple:
        texts = isinstance(value, list | tuple) and all(isinstance(v, str) for v in value)
        return tuple(value) if texts else None
    named = isinstance(value, dict) and all(isinstance(k, str) for k in value)
    return dict(value) if named and not _has_odd_number(value) else None


def _has_odd_number(value: Any) -> bool:
    """Return whether a number of another notation is anywhere in a value."""
    inner = [*value, *value.values()] if isinstance(value, dict) else value
    return isinstance(value, OddNumber) or (
        isinstance(value, dict | list) and any(_has_odd_number(one) for one in inner)
    )


def _fits_a_path(text: str) -> bool:
    """Return whether a text can name a file: no NUL, no half of a character."""
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False


def kind_of(value: Any) -> str:
    """Return in words what a value is that should have been a section."""
    kinds = {list: "a list", dict: "a section", str: "a text", type(None): "nothing"}
    return kinds.get(type(value), shown(value))


def shown(value: Any) -> str:
    """Return a value as a message shows it: a text in quotes, and not too long."""
    text = "null" if value is None else repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
