"""What sites would agree on, for an experiment that does not say so yet."""

import sys
import time

from flwr.serverapp import Grid

from fedmetanas.errors import SettingsError
from fedmetanas.experiments.console import say
from fedmetanas.experiments.settings import Settings
from fedmetanas.experiments.sites.agreement import proposal

from .hello import Hello
from .nodes import pause


def propose(grid: Grid, settings: Settings) -> None:
    """Say what the sites that are connected would agree on, as settings to paste.

    Raises
    ------
    SettingsError
        Always: an experiment needs to be told.
    """
    hello, started = Hello(grid), time.monotonic()
    while True:
        hello.meet()
        is_late = time.monotonic() - started > settings.engine.wait
        if is_late or (hello.answers and not hello.asked):
            break
        pause(started)
    answers = hello.answers.values()
    sites = [answer.facts for answer in answers if answer.facts and answer.facts.site]
    if sites:
        say(
            "what the sites that are connected would agree on:",
            "",
            proposal(sites, settings.data.image_size),
        )
    for node, answer in hello.answers.items():
        if answer.reason:
            say(f"node {node}: {answer.reason}", stream=sys.stderr)
    if sites:
        advice = "paste the lines above into the experiment, and change them as you like"
    elif hello.answers and settings.data.dataset != "imagefolder":
        advice = "sites have folders of images: set data.dataset=imagefolder"
    else:
        advice = f"no site could be asked what it has; {len(hello.answers)} nodes are connected"
    raise SettingsError(
        "sites must agree on data.classes, data.image_size and data.channels, and the experiment "
        f"must name them in sites: {advice}"
    )
