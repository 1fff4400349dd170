"""The command line: what can be said, and which file does it.

Help and errors of usage are answered before anything is imported that takes long.
"""

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from fedmetanas import __version__
from fedmetanas.errors import USER_ERRORS, SettingsError
from fedmetanas.experiments.console import one_line, say
from fedmetanas.experiments.entry import importing, stopped_code
from fedmetanas.experiments.settings import DEVICES, experiments, known_settings, nearest

from .federation_arguments import add_federation

ENGINES = ("inline", "ray")
BENCH_CASES = ("step", "episode", "round", "memory")
SITE_ACTIONS = ("check", "start")
LISTS = ("experiments", "strategies", "variants", "operations", "datasets", "runs")

EXAMPLES = """\
examples:
  fedmetanas run digits                           # search, train and test a network
  fedmetanas run digits rounds=5 search.nodes=3   # the same with other settings
  fedmetanas run --resume results/digits/TIME     # go on after an interruption
  fedmetanas run digits --engine superlink --superlink NAME   # on machines of their own
  fedmetanas compare digits --seeds 0,1           # set methods side by side
  fedmetanas federation up --local                # try sites: a server and three, here
  fedmetanas site check site.toml                 # look at a site's own images
  fedmetanas list experiments                     # what can be run
  fedmetanas settings search                      # what can be set in a section
"""


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return 0 if all was done, 1 if it failed, 2 for bad input."""
    try:
        options = _parse(sys.argv[1:] if arguments is None else arguments)
        with importing():
            command = importlib.import_module(f"{__package__}.{options.command}")
        return int(command.main(options))
    except USER_ERRORS as error:
        say(f"fedmetanas: {one_line(error)}", stream=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        say(f"\nfedmetanas: {one_line(stop) or 'stopped'}", stream=sys.stderr)
        return stopped_code()
    finally:
        say()  # what was printed is written, or nobody is told that it cannot be


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong, and end the process."""
        say(f"fedmetanas: {one_line(message)}; see {self.prog} --help", stream=sys.stderr)
        self.exit(2)


def _parse(arguments: list[str]) -> argparse.Namespace:
    """Parse the command line; ``key=value`` may stand before and behind options."""
    parser, commands = parsers()
    if arguments and arguments[0][:1] != "-" and arguments[0] not in commands:
        raise SettingsError(
            f"unknown command {arguments[0]!r}{nearest(arguments[0], commands)} "
            f"(commands are {', '.join(commands)})"
        )
    options, rest = parser.parse_known_args(arguments)
    settings = hasattr(options, "overrides")
    unknown = [word for word in rest if word[:1] == "-" or "=" not in word or not settings]
    if unknown:
        chosen = commands[options.command]
        hint = nearest(unknown[0].partition("=")[0], chosen._option_string_actions)
        if settings:
            hint = _as_setting(unknown[0], arguments) or hint
        chosen.error(f"unknown argument {unknown[0]!r}{hint}")
    if settings:
        options.overrides += rest
    return options


def _as_setting(word: str, arguments: list[str]) -> str:
    """Return words that say how a setting is given that stands as an option; none for others."""
    name, _, value = word.removeprefix("--").partition("=")
    if name not in known_settings():
        return ""
    following = [*arguments, "VALUE"][arguments.index(word) + 1]
    return f"; write {name}={value or following}"


def parsers() -> tuple[Parser, dict[str, Parser]]:
    """Return the parser of the command line, and that of every command by its name."""
    parser = Parser(
        prog="fedmetanas",
        description="Find a network, with its weights, for images that stay with their owners.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"fedmetanas {__version__}")
    commands = parser.add_subparsers(required=True, dest="command", metavar="COMMAND")

    run = commands.add_parser("run", help="run an experiment")
    _add_experiment(run, (*ENGINES, "superlink"), nargs="?")
    place = run.add_mutually_exclusive_group()
    place.add_argument(
        "--out",
        default="",
        metavar="DIR",
        help="a new or empty folder for the results; default: results/EXPERIMENT/TIME",
    )
    place.add_argument("--resume", type=Path, metavar="DIR", help="go on with the run in DIR")
    run.add_argument(
        "--superlink",
        default="",
        metavar="NAME",
        help="with --engine superlink: the connection [superlink.NAME] in $FLWR_HOME/config.toml, "
        "by default ~/.flwr/config.toml",
    )
    run.add_argument(
        "--detach",
        action="store_true",
        help="with --engine superlink: submit the run and end; see `fedmetanas attach`",
    )
    run.add_argument(
        "--accept-changed",
        default="",
        metavar="NAME,...",
        help="with --resume: sites whose images may have changed since the run began",
    )

    compare = commands.add_parser("compare", help="run variants of an experiment side by side")
    _add_experiment(compare, ENGINES)
    compare.add_argument(
        "--strategies",
        default="fedmetanas,fednas,fedavg,perfedavg,random",
        metavar="NAME,...",
        help="variants to run, see `fedmetanas list variants`; default: %(default)s",
    )
    compare.add_argument(
        "--seeds",
        default="0,1,2",
        metavar="N,...",
        help="seeds with which each variant is run; default: %(default)s",
    )
    compare.add_argument(
        "--variants", type=Path, metavar="FILE", help="a YAML file with variants of your own"
    )
    compare.add_argument(
        "--reference",
        metavar="NAME",
        help="variant that the others are set against; default: fednas, if it is among them",
    )
    compare.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="folder of the comparison, new or to go on with; default: "
        "results/EXPERIMENT-comparison",
    )

    evaluate = commands.add_parser("evaluate", help="test the network that a run has left")
    evaluate.add_argument("folder", type=Path, metavar="DIR", help="the results folder of a run")

    draw = commands.add_parser("draw", help="draw the cells that a run has found")
    draw.add_argument("folder", type=Path, metavar="DIR", help="the results folder of a run")

    site = commands.add_parser("site", help="look at a site's own images, or be a site")
    site.add_argument(
        "action",
        choices=SITE_ACTIONS,
        metavar="ACTION",
        help="check: read all images, say what the server would be told, and try the connection; "
        "start: join, and stay",
    )
    site.add_argument("file", type=Path, metavar="FILE", help="the site's file, site.toml")
    site.add_argument(
        "experiment",
        nargs="?",
        metavar="EXPERIMENT",
        help="for check: the experiment to rehearse, a YAML file or a name; default: images of any "
        "size",
    )
    site.add_argument(
        "overrides", nargs="*", metavar="key=value", help="for check: settings of the experiment"
    )

    bench = commands.add_parser("bench", help="compare the fast code with a plain reference")
    bench.add_argument(
        "cases",
        nargs="*",
        choices=BENCH_CASES,
        metavar="CASE",
        help=f"what to measure, out of {', '.join(BENCH_CASES)}; default: all",
    )
    bench.add_argument(
        "--batch-size", type=_count, default=64, metavar="N", help="images of a batch; default: 64"
    )
    bench.add_argument(
        "--repeats", type=_count, default=3, metavar="N", help="turns of both; default: 3"
    )
    bench.add_argument(
        "--device", choices=DEVICES, default="cpu", help="where to compute; default: cpu"
    )
    bench.add_argument("--json", action="store_true", help="print JSON instead of a table")

    add_federation(commands.add_parser("federation", help="make and serve a federation of sites"))

    settings = commands.add_parser("settings", help="say what can be set, and what it means")
    settings.add_argument(
        "key", nargs="?", metavar="KEY", help="a setting or a section; default: all"
    )

    listing = commands.add_parser("list", help="say what there is")
    listing.add_argument("what", choices=LISTS, metavar="WHAT", help=f"one of {', '.join(LISTS)}")
    listing.add_argument(
        "folder", nargs="?", type=Path, metavar="DIR", help="where runs are; default: results"
    )

    attach = commands.add_parser("attach", help="follow a run on a SuperLink to its end")
    attach.add_argument("folder", type=Path, metavar="DIR", help="the results folder of the run")
    return parser, commands.choices


def _add_experiment(
    command: argparse.ArgumentParser, engines: Sequence[str], **options: Any
) -> None:
    """Add what says which experiment is run, and by which of some engines."""
    elsewhere = ", or on machines of their own (superlink)" if "superlink" in engines else ""
    names = ", ".join(experiments())
    words = f"a YAML file, or one of {names}"
    command.add_argument("experiment", metavar="EXPERIMENT", help=words, **options)
    command.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="settings, such as search.nodes=3; see `fedmetanas settings`",
    )
    command.add_argument(
        "--engine",
        choices=engines,
        default="ray",
        help="clients in processes side by side (ray) or all in this one (inline)"
        f"{elsewhere}; default: ray",
    )


def _count(text: str) -> int:
    """Read a whole number of 1 or more."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number, at least 1; found {text!r}")
    return int(text)
