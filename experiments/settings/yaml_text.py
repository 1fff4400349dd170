"""YAML of plain values, read and written with the numbers of YAML 1.2.

PyYAML follows YAML 1.1, in which 010 is eight, 1:30 is ninety and ``no`` is false. Here a number is
decimal, only ``true`` and ``false`` are booleans, and a day is a text.
"""

import re
from pathlib import Path
from typing import Any

import yaml

from fedmetanas.errors import SettingsError
from fedmetanas.experiments.console import one_line

MAX_YAML_BYTES = 1_000_000
#: Numbers of Python's and JSON's: 3, -3, 0.5, .5, 1e-3.
NUMBER = re.compile(r"[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?")
PREFIX = "tag:yaml.org,2002:"
ODD_NUMBER = "!odd-number"

#: What a text without quotes is; the first that fits, and else a text.
PLAIN_VALUES = [
    (PREFIX + "null", re.compile(r"(?:~|null|Null|NULL|)\Z")),
    (PREFIX + "bool", re.compile(r"(?:true|True|TRUE|false|False|FALSE)\Z")),
    (PREFIX + "int", re.compile(r"[-+]?[0-9]+\Z")),
    (PREFIX + "float", re.compile(NUMBER.pattern + r"\Z")),
    (PREFIX + "float", re.compile(r"(?:[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))\Z")),
    (ODD_NUMBER, re.compile(r"[-+]?0[xob][0-9a-fA-F_]+\Z")),
    (ODD_NUMBER, re.compile(r"[-+]?[0-9]+(?:[_:][0-9]+)+(?:\.[0-9_]*)?\Z")),
]


class OddNumber(str):
    """A number in a notation that is not decimal: 0x10, 0o10, 0b1, 1_000 or 1:30.

    It is a text where a text is wanted, and no number where a number is.
    """


class _Loader(yaml.SafeLoader):
    """YAML of plain values: no aliases, no explicit tags, no key twice."""

    yaml_implicit_resolvers = {None: PLAIN_VALUES}  # noqa: RUF012

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Compose a node, refusing aliases and tags."""
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent):
            raise yaml.YAMLError("aliases (*name) are not allowed; write the values out")
        if getattr(event, "tag", None) is not None:
            raise yaml.YAMLError(f"tags are not allowed: {event.tag}")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """Construct a mapping, refusing a key that stands twice."""
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.YAMLError(f"the key {key.value!r} stands twice")
                seen.add(key.value)
        return super().construct_mapping(node, deep)


_Loader.add_constructor(PREFIX + "int", lambda loader, node: int(node.value))
_Loader.add_constructor(ODD_NUMBER, lambda loader, node: OddNumber(node.value))


class _Dumper(yaml.SafeDumper):
    """Writes what :func:`read_yaml` reads back equal."""

    yaml_implicit_resolvers = {None: PLAIN_VALUES}  # noqa: RUF012


def read_text(path: Path, most: int = MAX_YAML_BYTES) -> str:
    """Read a file of at most so many bytes; no more is read of a larger or an endless one.

    Raises
    ------
    SettingsError
        If it is missing, larger, or not UTF-8.
    """
    try:
        with path.open("rb") as file:
            content = file.read(most + 1)
        if len(content) > most:
            raise _enormous(str(path), most)
        return content.decode()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not a UTF-8 text"
        raise SettingsError(f"cannot read {str(path)!r}: {reason}") from None


def read_yaml(text: str, source: str) -> Any:
    """Read YAML text, or raise with the source's name."""
    if len(text) > MAX_YAML_BYTES:
        raise _enormous(source, MAX_YAML_BYTES)
    try:
        return yaml.load(text, Loader=_Loader)  # a SafeLoader: plain values only
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise SettingsError(f"{source} is not valid YAML: {one_line(error)[:300]}") from None


def write_yaml(tree: Any) -> str:
    """Write a tree of plain values as YAML text that :func:`read_yaml` reads back equal."""
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False)


def _enormous(source: str, most: int) -> SettingsError:
    return SettingsError(f"{source}: expected at most {most} bytes")
