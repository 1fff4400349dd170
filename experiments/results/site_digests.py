"""With which images sites began a run: it goes on with the same, or is told which are others."""

from collections.abc import Mapping

from fedmetanas.errors import SettingsError
from fedmetanas.experiments.settings import Settings

from .checkpoint import Checkpoint


def begun_with(saved: Checkpoint | None, settings: Settings, accepted: str) -> dict[str, str]:
    """Return with which images sites began a run: their digests, by name.

    Parameters
    ----------
    saved : Checkpoint or None
        From which the run goes on.
    settings : Settings
        For the names of the sites.
    accepted : str
        Names, with commas between them, of sites whose images may be others by now.

    Raises
    ------
    SettingsError
        If there is no site of such a name.
    """
    names = [name.strip() for name in accepted.split(",") if name.strip()]
    sites = (*settings.sites, *settings.held_out_sites)
    if unknown := [name for name in names if name not in sites]:
        raise SettingsError(
            f"--accept-changed: expected names of sites: {', '.join(sites) or 'there are none'}; "
            f"found {unknown[0]!r}"
        )
    begun = saved.sites if saved else {}
    return {name: data for name, data in begun.items() if name not in names}


def refuse_changed(begun: Mapping[str, str], now: Mapping[str, str]) -> None:
    """Raise if images of a site are others than those with which it began a run.

    Parameters
    ----------
    begun, now : dict of str to str
        Digests by the names of the sites; one that is in only one of them has not changed.

    Raises
    ------
    SettingsError
        With the names of all such sites.
    """
    changed = sorted(name for name in begun if now.get(name, begun[name]) != begun[name])
    if changed:
        raise SettingsError(
            f"resume: the images of {', '.join(changed)} have changed since this run began; go on "
            f"with them by --accept-changed {','.join(changed)}, or start a new run"
        )
