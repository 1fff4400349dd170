"""``fedmetanas site``: look at this site before it joins, or be it."""

import argparse
import sys

from fedmetanas.errors import RunError, SettingsError
from fedmetanas.experiments.console import one_line, say
from fedmetanas.experiments.entry import importing
from fedmetanas.experiments.settings import Settings, from_yaml, load
from fedmetanas.experiments.sites.site_file import SiteFile, read_site

IMAGES = ("data.dataset=imagefolder",)  # without an experiment


def main(options: argparse.Namespace) -> int:
    """Read the site's file, then check or start it."""
    words = [*([options.experiment] if options.experiment else []), *options.overrides]
    if options.action == "start" and words:
        raise SettingsError(
            f"site start: expected a site's file alone, since the server says what is run; found "
            f"{words[0]!r}"
        )
    site = read_site(options.file)
    return _start(site) if options.action == "start" else _check(site, _rehearsed(words))


def _rehearsed(words: list[str]) -> Settings:
    """Return the settings of an experiment, or ones by which images of any size can be read."""
    if words and "=" not in words[0]:
        return load(words[0], words[1:])
    return from_yaml("", [*IMAGES, *words])


def _check(site: SiteFile, settings: Settings) -> int:
    with importing():
        from fedmetanas.experiments.sites.check import check

    faults = check(site, settings)
    for fault in faults:
        say(f"fedmetanas: {one_line(fault)}", stream=sys.stderr)
    if not faults:
        say(f"{site.name} is ready")
    return 2 if faults else 0


def _start(site: SiteFile) -> int:
    with importing():
        from fedmetanas.experiments.sites.supernode import play

    try:
        play(site)
    except RunError as error:
        say(f"fedmetanas: {one_line(error)}", stream=sys.stderr)
        return error.exit_code
    return 0
