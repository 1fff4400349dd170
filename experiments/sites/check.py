"""Looking at a site before it joins: its images, what the server would be told, the connection."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from fedmetanas.errors import DataError, SettingsError
from fedmetanas.experiments.client_data import open_site
from fedmetanas.experiments.console import printable, say
from fedmetanas.experiments.data.registry import Dataset
from fedmetanas.experiments.experiment import check_device
from fedmetanas.experiments.settings import Settings

from .agreement import objections, read_facts
from .connection import connect
from .facts import facts_of
from .faults import faults_of, warnings_of
from .site_file import SiteFile


def check(site: SiteFile, settings: Settings) -> list[str]:
    """Look at everything, say what is found, and return all that is wrong, a line each.

    Parameters
    ----------
    site : SiteFile
        The site.
    settings : Settings
        The experiment to rehearse: its data set, classes, image size and colour.
    """
    faults = faults_of(site)
    try:
        check_device("device", site.device)
    except SettingsError as error:
        faults.append(str(error))
    if site.data.is_dir():
        own = replace(settings, data=replace(settings.data, cache="", download=False))
        try:
            dataset = open_site(own, site.data)
            say(*map(printable, _lines(dataset, site)))
            if settings.data.classes:  # an experiment with which to agree
                faults += objections(read_facts(facts_of(dataset, site.name, "none")), settings)
        except DataError as error:
            faults.append(str(error))
    for warning in warnings_of(site):
        say(f"warning: {warning}")
    try:
        say(f"{site.superlink}: {connect(site.superlink, site.root_certificates)}")
    except SettingsError as error:
        faults.append(str(error))
    return faults


def _lines(dataset: Dataset, site: SiteFile) -> Iterator[str]:
    """Yield what was read, and what the server would be told of it."""
    yield f"{site.data}:"
    yield f"  {'class':<24}{'train':>8}{'test':>8}"
    for label, name in enumerate(dataset.classes):
        parts = (dataset.train.labels, dataset.test.labels)
        trained, tested = (int(np.count_nonzero(part == label)) for part in parts)
        yield f"  {name:<24}{trained:>8,}{tested:>8,}"
    for reason, files in (dataset.reading.skipped if dataset.reading else {}).items():
        yield f"  skipped: {files:,} {reason}"
    yield "the server would be told, and nothing else:"
    for key, value in facts_of(dataset, site.name, site.disclose).items():
        yield f"  {key}: {', '.join(map(str, value)) if isinstance(value, list) else value!s}"
