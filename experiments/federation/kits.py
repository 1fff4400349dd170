"""The files of a site's kit and of the server's folder, from the templates beside this file."""

import os
from collections.abc import Iterator
from pathlib import Path
from string import Template

TEMPLATES = Path(__file__).parent / "templates"


def fill(folder: Path, kind: str, **values: str) -> None:
    """Write the files of a site's kit, or of the server's folder, that are made from templates.

    Parameters
    ----------
    folder : Path
    kind : str
        ``site`` or ``server``.
    **values : str
        What stands for ``$name`` and others in the templates.

    Raises
    ------
    OSError
        If they cannot be written, or are there already.
    """
    for template in templates(kind):
        text = Template(template.read_text(encoding="utf-8")).substitute(values)
        write(folder / template.name, text.encode(), 0o755 if template.suffix == ".sh" else 0o644)


def templates(kind: str) -> Iterator[Path]:
    """Yield the templates of ``site`` or ``server``, and of the containers of both."""
    for folder in (kind, "container"):
        yield from sorted((TEMPLATES / folder).iterdir())


def write(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Write a new file that nobody with less rights than `mode` says has ever been able to read."""
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(content)


def remove_kit(kit: Path, name: str) -> None:
    """Remove what a site's kit has brought, and its folder if there is nothing else in it."""
    for file in (f"{name}.key", "ca.crt", *(template.name for template in templates("site"))):
        (kit / file).unlink(missing_ok=True)
    if kit.is_dir() and not any(kit.iterdir()):
        kit.rmdir()
