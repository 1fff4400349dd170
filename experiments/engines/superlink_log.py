"""What a run on a SuperLink says, line by line: the ServerApp's lines are shown, Flower's not."""

import re
import sys
from dataclasses import dataclass, field

import fedmetanas
from fedmetanas import errors
from fedmetanas.experiments.console import one_line, printable, say

#: How Flower begins a line of its own, with or without colour and time.
FLOWERS = re.compile(
    r"(?:\x1b\[\d+m)?(DEBUG|INFO|WARNING|ERROR|CRITICAL) [\d:,. -]*(?:\x1b\[0m)?: +(.*)"
)
ASIDE = re.compile(r"Successfully installed \S+ to |Using SuperLink: ")  # Flower's, too
RAISED = "ServerApp raised an exception"
EXITS = "Exit Code: "
TRACEBACK = "Traceback (most recent call last):"
OURS = "fedmetanas: "  # before the line that says why a run ends
RESULTS = "results: "  # before the folder in which the server has written


@dataclass
class Log:
    """The lines of a run.

    Attributes
    ----------
    name : str
        Of the run, and of its folder at the server.
    results : str
        The path of that folder, as the server says it; empty before. It is shown, never opened.
    """

    name: str
    results: str = ""
    _said: set[str] = field(default_factory=set)  # warnings and last words, each once
    _raised: list[str] = field(default_factory=list)  # the traceback of what ended the ServerApp
    _hidden: list[str] | None = None  # where lines go that belong to one of Flower's

    def take(self, line: str) -> None:
        """Show a line, if it is one for a person."""
        if found := FLOWERS.fullmatch(line):
            self._take_flowers(found[1], found[2])
        elif self._hidden is not None:
            self._hidden.append(line)
        elif line.startswith(RESULTS) and line.endswith(f"/{self.name}"):
            self.results = printable(line.removeprefix(RESULTS))
        elif line.startswith(OURS):
            self._say_once(printable(line))
        elif not ASIDE.match(line):
            say(printable(line))

    def _take_flowers(self, level: str, words: str) -> None:
        """Hide a line of Flower, and what belongs to it; say its warnings, as in a simulation."""
        self._hidden = None
        if words == RAISED:
            self._hidden = self._raised
        elif words.startswith(EXITS):
            self._hidden = []
        elif level == "WARNING":
            self.warn(words)

    def warn(self, words: str) -> None:
        """Say a warning, unless it was said before."""
        self._say_once(f"warning: {one_line(words)}")

    def _say_once(self, words: str) -> None:
        if words not in self._said:
            self._said.add(words)
            say(words, stream=sys.stderr)

    def say_why(self, otherwise: str) -> type[errors.UserError | errors.RunError]:
        """Say why the ServerApp failed, unless it has itself; return the kind of the error.

        An error of this project says all in one line. Of any other the traceback is shown.

        Parameters
        ----------
        otherwise : str
            What Flower says of it, for a ServerApp that ended without a word.
        """
        name, message = self._last_words()
        room, _, name = name.rpartition(".")
        if room.startswith(fedmetanas.__name__):
            self._say_once(f"{OURS}{one_line(message)}")
        else:
            say(*map(printable, self._raised or [f"{OURS}{otherwise}"]), stream=sys.stderr)
        known = vars(errors).get(name) if room == errors.__name__ else None
        return known if isinstance(known, type) else errors.RunError

    def _last_words(self) -> tuple[str, str]:
        """Return the type of the exception that ended the ServerApp, and its message."""
        words = list(self._raised)
        while TRACEBACK in words:  # the last one is of what was raised last
            words = words[words.index(TRACEBACK) + 1 :]
        while words and words[0].startswith(" "):  # the lines of code
            words.pop(0)
        kind, _, message = "\n".join(words).partition(": ")
        return kind, message
