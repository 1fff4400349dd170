"""``fedmetanas settings``: say what can be set, and what it means."""

import argparse
import textwrap
from collections.abc import Iterator
from typing import Any

from fedmetanas.experiments.console import say
from fedmetanas.experiments.settings import known_sections, known_settings, unknown_setting

WIDTH = 80


def main(options: argparse.Namespace) -> int:
    """Print a setting, those of a section, or all."""
    known, sections, key = known_settings(), known_sections(), options.key
    if key in known:
        say(*described(key))
        return 0
    if key is not None and key not in sections:
        section = key.partition(".")[0]
        raise unknown_setting(key, f"{section}." if section in sections else "")
    wanted = [name for name in known if key is None or name.partition(".")[0] == key]
    before = ""
    for name in wanted:
        section = name.rpartition(".")[0]
        if section != before:
            say(f"# {section}: {sections[section]}", "")
        before = section
        say(*described(name), "")
    return 0


def described(key: str) -> Iterator[str]:
    """Yield lines that say of a setting its default, its meaning and what it may be."""
    setting = known_settings()[key]
    indented = textwrap.TextWrapper(WIDTH, initial_indent="    ", subsequent_indent="    ")
    yield f"{key}={written(setting.default)}"
    yield from indented.wrap(setting.about)
    yield from indented.wrap(f"Allowed: {setting.words}.")


def written(value: Any) -> str:
    """Return a value as it is written on the command line."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, tuple):
        return f"[{', '.join(value)}]"
    return str(value)
