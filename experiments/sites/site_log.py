"""A site's own log: what must not leave the site stands here, whole, and nowhere else."""

import os
import secrets
import sys
import time
from pathlib import Path

from fedmetanas.experiments.console import printable, say

FILE = "site.log"


def report(log: Path, text: str) -> str:
    """Write a text into a site's log, and return the number under which it stands there.

    Parameters
    ----------
    log : Path
        Folder of the log, made if missing.
    text : str
        An error with its traceback, or anything else that must not leave the site.

    Returns
    -------
    str
        8 random hexadecimal digits; all that may be said of the text elsewhere. If the log cannot
        be written, the text is on the standard error of this process instead.
    """
    number = secrets.token_hex(4)
    try:
        write(log, f"error {number}\n{text}")
    except OSError as error:
        say(
            f"cannot write {log / FILE}: {error.strerror}; error {number}:",
            *printable(text).splitlines(),
            stream=sys.stderr,
        )
    return number


def write(log: Path, text: str) -> None:
    """Append a text and the time to a log that only its owner may read.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    log.mkdir(mode=0o700, parents=True, exist_ok=True)
    line = f"{time.strftime('%Y-%m-%d %H:%M:%S')} {printable(text).rstrip()}\n"
    file = os.open(log / FILE, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(file, line.encode(errors="backslashreplace"))  # at once: others write there, too
    finally:
        os.close(file)
