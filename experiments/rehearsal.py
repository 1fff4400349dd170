"""Before a simulation of sites: each is asked what a real one would be asked."""

from fedmetanas.errors import DataError, SettingsError

from .experiment import Experiment
from .sites.agreement import objections, read_facts
from .sites.facts import facts_of


def rehearse(experiment: Experiment) -> None:
    """Check that all sites of a simulation agree with the experiment; do nothing without sites.

    Raises
    ------
    SettingsError
        If some do not, or their images cannot be read; all of them are named.
    """
    settings, found = experiment.settings, []
    for number, name in enumerate((*settings.sites, *settings.held_out_sites)):
        try:
            facts = read_facts(facts_of(experiment.site(number), name, "none"))
        except DataError as error:
            found.append(f"{name}: {error}")
            continue
        found += [f"{name}: {reason}" for reason in objections(facts, settings)]
    if found:
        raise SettingsError("; ".join(found))
