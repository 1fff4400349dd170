"""Before a simulation of sites: each is asked what a real one would be asked."""

from fedmetanas.errors import DataError, SettingsError

from .experiment import Experiment
from .sites.agreement import Facts, objections, read_facts
from .sites.facts import facts_of


def rehearse(experiment: Experiment) -> list[Facts]:
    """Check that all sites of a simulation agree with the experiment, and return what they have.

    Raises
    ------
    SettingsError
        If some do not, or their images cannot be read; all of them are named.
    """
    settings = experiment.settings
    sites: list[Facts] = []
    found: list[str] = []
    for number, name in enumerate((*settings.sites, *settings.held_out_sites)):
        try:
            facts = read_facts(facts_of(experiment.site(number), name, "counts"))
        except DataError as error:
            found.append(f"{name}: {error}")
            continue
        sites.append(facts)
        found += [f"{name}: {reason}" for reason in objections(facts, settings)]
    if found:
        raise SettingsError("; ".join(found))
    return sites
