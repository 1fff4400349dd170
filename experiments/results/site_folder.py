"""What a site keeps of a run: the network, in a folder that ``fedmetanas evaluate`` reads."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedmetanas.errors import SettingsError
from fedmetanas.experiments.files import json_text, unwritable, write_file
from fedmetanas.experiments.settings import Settings
from fedmetanas.search_space.genotype import Genotype, load_weights
from fedmetanas.search_space.supernet import Weights

from .on_superlink import NAME
from .run_folder import GENOTYPE, SETTINGS, SUMMARY, WEIGHTS, write_network

FILES = {SETTINGS, GENOTYPE, WEIGHTS, SUMMARY}


def keep(
    results: Path,
    run: str,
    settings: Settings,
    genotype: str,
    weights: Weights,
    summary: Mapping[str, Any],
) -> Path:
    """Keep the network of a run, in a folder of its own that nobody else may read.

    Parameters
    ----------
    results : Path
        The site's folder for such folders, made if missing.
    run : str
        Name of the run, as the server says it: up to 100 letters, digits and ``-``.
    settings : Settings
        The run's, with the site's own data in place of the server's.
    genotype : str
        The architecture as JSON.
    weights : mapping
        The weights of its network, by name.
    summary : mapping
        What the server says of the run, plain values.

    Returns
    -------
    Path
        The folder. The same run once more replaces it as a whole.

    Raises
    ------
    SettingsError
        If the name is another one, or there is something else of that name.
    GenotypeError
        If it is no genotype, or the weights are not its own.
    UnwritableError
        If it cannot be written.
    """
    if not NAME.fullmatch(run):
        raise SettingsError("name of the run: expected up to 100 letters, digits and -")
    found = Genotype.from_json(genotype)
    load_weights(found.network(), weights)
    folder = results / run
    try:
        if os.path.lexists(folder) and not _is_kept(folder):
            raise SettingsError(f"{folder} is there already, and not what was kept of a run")
        results.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{run}-", dir=results))
        try:
            _write(draft / "new", settings, found, weights, summary)
            with contextlib.suppress(FileNotFoundError):  # the first delivery
                os.rename(folder, draft / "old")
            os.rename(draft / "new", folder)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    except OSError as error:
        raise unwritable(folder, error) from error
    return folder


def _is_kept(folder: Path) -> bool:
    """Return whether a path is a folder, and no link, of nothing but the files kept here."""
    return folder.is_dir() and not folder.is_symlink() and {*os.listdir(folder)} <= FILES


def _write(
    folder: Path,
    settings: Settings,
    genotype: Genotype,
    weights: Weights,
    summary: Mapping[str, Any],
) -> None:
    folder.mkdir(mode=0o700)
    write_file(folder / SETTINGS, settings.to_yaml().encode())
    write_network(folder, genotype, weights)
    write_file(folder / SUMMARY, json_text(summary, indent=2).encode())
    for path in folder.iterdir():
        path.chmod(0o600)
