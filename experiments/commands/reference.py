"""The reference of the command line and of the settings, as Markdown made from the code.

``python -m fedmetanas.experiments.commands.reference`` writes ``docs/cli.md`` and
``docs/settings.md``.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fedmetanas.experiments.settings import known_sections, known_settings

from .main import EXAMPLES, parsers
from .settings import written

MADE = "\n<!-- Made from the code by `make reference`; do not edit. -->\n"


def cli() -> str:
    """Return what can be said on the command line."""
    lines = [
        "# The command line",
        MADE,
        "```console",
        *(line.strip() for line in EXAMPLES.splitlines()[1:]),
        "```",
        "",
        "The exit code is 0 if all was done, 1 if a run failed, and 2 if something in the input is "
        "wrong. One line says what. After Ctrl-C it is 130.",
        "",
        "`--help` behind a command says the same as this page, `--version` which version this is.",
    ]
    whole, _ = parsers()
    for name, about, parser in _each(whole):
        lines += ["", f"## {name}", "", f"{_sentence(about)}", ""]
        lines += ["| argument | meaning |", "|---|---|"]
        lines += [f"| {words} | {meaning} |" for words, meaning in _arguments(parser)]
    return "\n".join(lines) + "\n"


def _each(parser: argparse.ArgumentParser, above: str = "") -> Iterator[tuple[str, str, Any]]:
    """Yield of every command its name, what it is for, and its parser; of one, its actions."""
    for action in parser._actions:
        if not isinstance(action, argparse._SubParsersAction):
            continue
        about = {one.dest: one.help or "" for one in action._choices_actions}
        for name, inner in action.choices.items():
            actions = list(_each(inner, f"{name} "))
            yield from actions or [(f"{above}{name}", about[name], inner)]


def _arguments(parser: argparse.ArgumentParser) -> Iterator[tuple[str, str]]:
    """Yield what can be given to a command, as it is written, and what it means."""
    for action in parser._actions:
        if isinstance(action, argparse._HelpAction):
            continue
        value = "" if action.nargs == 0 else str(action.metavar or "")
        if not value and action.choices:
            value = "|".join(map(str, action.choices))
        words = " ".join([*action.option_strings[-1:], *([value] if value else [])])
        meaning = (action.help or "") % {"default": action.default}
        yield f"`{words}`".replace("|", r"\|"), _sentence(meaning)


def settings() -> str:
    """Return all settings, a table a section."""
    lines = [
        "# Settings",
        MADE,
        "A setting stands in an experiment's YAML file, inside its section, or on the command line "
        "behind the section's name and a dot: `fedmetanas run digits search.nodes=3`. The command "
        "line wins over the file, and the file over the default. "
        "`fedmetanas settings KEY` prints what this page says of one.",
        "",
        "Numbers are decimal. A switch is `true` or `false`. On the command line a text is taken "
        "as it stands behind the `=`; other values are read as YAML, such as "
        "`search.operations='[skip_connect, sep_conv_3x3]'`.",
    ]
    sections = {"": "The experiment as a whole."} | known_sections()
    for section, about in sections.items():
        lines += ["", f"## {section or 'experiment'}", "", about, ""]
        lines += ["| setting | default | meaning | allowed |", "|---|---|---|---|"]
        lines += [
            f"| `{key}` | {_code(written(known.default))} | {known.about} | {known.words} |"
            for key, known in known_settings().items()
            if key.rpartition(".")[0] == section
        ]
    return "\n".join(lines) + "\n"


def _code(text: str) -> str:
    return f"`{text}`" if text else "empty"


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def main(folder: Path = Path("docs")) -> None:
    """Write both pages into a folder."""
    for name, text in (("cli", cli()), ("settings", settings())):
        (folder / f"{name}.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
