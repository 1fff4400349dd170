"""A run on a SuperLink: where it writes there, and the file by which its folder here is known."""

import json
import os
import re
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from fedmetanas.errors import SettingsError
from fedmetanas.experiments.files import write_file

RUN = "run.json"
RESULTS = "FEDMETANAS_RESULTS"  # names the folder under which runs of a SuperLink write
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,99}")


@dataclass(frozen=True)
class OnSuperLink:
    """What is known here of a run on a SuperLink.

    Attributes
    ----------
    superlink : str
        Name of the connection, as Flower's configuration has it.
    name : str
        Of the run: there, its folder has this name.
    run_id : str
        Flower's number of the run; empty until it was submitted.
    goes_on : bool
        Whether it goes on with an earlier run of the same name.
    """

    superlink: str
    name: str
    run_id: str
    goes_on: bool


def name_of(text: str) -> str:
    """Return a name for a new run: a text made plain, and the time, by which it is the only one."""
    plain = re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-")[:80] or "run"
    return f"{plain}-{time.strftime('%Y-%m-%d-%H%M%S')}"


def folder_of(name: str) -> Path:
    """Return the folder of a SuperLink's run of that name, where the environment says it is.

    Without ``FEDMETANAS_RESULTS`` it is in ``results``, in the current folder.

    Raises
    ------
    SettingsError
        If it is no name.
    """
    if not NAME.fullmatch(name):
        raise SettingsError(
            f"name: expected up to 100 letters, digits and -, the first no -; found {name!r}"
        )
    return Path(os.environ.get(RESULTS) or "results").absolute() / name


def write(folder: Path, run: OnSuperLink) -> None:
    """Note which run a folder is of.

    Raises
    ------
    UnwritableError
        If it cannot be written.
    """
    write_file(folder / RUN, (json.dumps(asdict(run), indent=2) + "\n").encode())


def read(folder: Path) -> OnSuperLink:
    """Read which run a folder is of.

    Raises
    ------
    SettingsError
        If it is of none, or the note of it is damaged.
    """
    path = folder / RUN
    try:
        found = OnSuperLink(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise SettingsError(
            f"{folder} is not the folder of a run on a SuperLink: there is no {RUN} in it"
        ) from None
    except OSError as error:
        raise SettingsError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, TypeError, RecursionError):
        raise SettingsError(f"{path} is damaged: expected what `fedmetanas run` wrote") from None
    texts = (found.superlink, found.name, found.run_id)
    if not all(isinstance(text, str) for text in texts) or not NAME.fullmatch(found.name):
        raise SettingsError(f"{path} is damaged: expected what `fedmetanas run` wrote")
    if found.run_id and not found.run_id.isdecimal():
        raise SettingsError(f"{path} is damaged: expected what `fedmetanas run` wrote")
    return found


def refuse(folder: Path) -> None:
    """Raise SettingsError if a folder is of a run on a SuperLink, which no other engine goes on."""
    if (folder / RUN).exists():
        raise SettingsError(
            f"resume: the run in {folder} is one of a SuperLink, where its checkpoints are; go on "
            "with --engine superlink"
        )
