"""What a value must satisfy, in code and in words, and how a setting is declared."""

import difflib
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Rule:
    """What a value must satisfy, and the words that say so.

    Attributes
    ----------
    holds : callable
        From a value of the right type to whether it is allowed.
    said : str
        What is allowed. Names follow it, if there are some.
    names : collection of str
        The names that are allowed; it is read whenever it is needed, so that names that are
        registered later count.
    complete : bool
        Whether the words need no type before them, such as "a whole number".
    """

    holds: Callable[[Any], bool]
    said: str
    names: Collection[str] = ()
    complete: bool = False

    @property
    def words(self) -> str:
        """What is allowed, with all names."""
        return self.said + ", ".join(self.names)


def at_least(low: float) -> Rule:
    """Accept numbers of `low` and more."""
    return Rule(lambda value: value >= low, f"at least {low}")


def above(low: float) -> Rule:
    """Accept numbers greater than `low`."""
    return Rule(lambda value: value > low, f"greater than {low}")


def between(low: float, high: float) -> Rule:
    """Accept numbers from `low` to `high`, both included."""
    return Rule(lambda value: low <= value <= high, f"from {low} to {high}")


def inside(low: float, high: float) -> Rule:
    """Accept numbers strictly between `low` and `high`."""
    return Rule(lambda value: low < value < high, f"greater than {low} and less than {high}")


def from_up_to(low: float, high: float) -> Rule:
    """Accept numbers from `low` on that are less than `high`."""
    return Rule(lambda value: low <= value < high, f"at least {low} and less than {high}")


def one_of(names: Collection[str]) -> Rule:
    """Accept one of `names`."""
    return Rule(lambda value: value in names, "one of ", names, complete=True)


def some_of(names: Collection[str]) -> Rule:
    """Accept different operations of `names`, at least one of them beside ``none``."""

    def holds(chosen: Sequence[str]) -> bool:
        known = all(name in names for name in chosen)
        return known and len(set(chosen)) == len(chosen) and [*chosen] not in ([], ["none"])

    words = "a list of different operations, at least one beside none, out of "
    return Rule(holds, words, names, complete=True)


def different(words: str, holds: Callable[[str], bool] = bool) -> Rule:
    """Accept different texts, each of which `holds`; or none at all."""
    return Rule(
        lambda texts: len(set(texts)) == len(texts) and all(holds(text) for text in texts),
        words,
        complete=True,
    )


def setting(default: Any, rule: Rule | None = None, *, about: str) -> Any:
    """Declare a setting: its default, what it must satisfy, and what it means, in a sentence."""
    metadata = {"about": about, "rule": rule}
    if isinstance(default, dict):
        return field(default_factory=lambda: dict(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def nearest(name: str, names: Iterable[str]) -> str:
    """Return words that name the nearest of some names, or none."""
    close = difflib.get_close_matches(name, list(names), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
