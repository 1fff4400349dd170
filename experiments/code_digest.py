"""Which code this process runs: a digest, by which a server knows that its clients run the same."""

import hashlib
from collections.abc import Iterable
from importlib.machinery import PathFinder
from pathlib import Path

import fedmetanas
from fedmetanas.errors import SettingsError

#: The packages inside ours. In a checkout there is more beside them, which is no part of it.
PACKAGES = ("benchmarks", "client", "experiments", "search_space", "server", "strategies")


def digest_of(folders: Iterable[str]) -> str:
    """Return a digest of the Python files of this project, as it lies in some folders.

    Parameters
    ----------
    folders : iterable of str
        A package's ``__path__``: the folder of the package, and that of its subpackages where they
        lie elsewhere.

    Returns
    -------
    str
        Of the files' names below the package and their content, 64 hexadecimal digits. The same
        for a checkout and for the wheel made of it.
    """
    package, *others = (Path(folder) for folder in folders)
    files = {path.name: path for path in package.glob("*.py")}
    for folder in (package, *others):
        for name in PACKAGES:
            for path in (folder / name).rglob("*.py"):
                if path.stem.isidentifier():  # editors leave files with names like .#app.py
                    files[path.relative_to(folder).as_posix()] = path
    digest = hashlib.sha256()
    for name in sorted(files):
        content = files[name].read_bytes()
        digest.update(f"{name} {len(content)} ".encode() + content)
    return digest.hexdigest()


#: Of the code as it was when this process was started.
DIGEST = digest_of(fedmetanas.__path__)


def refuse_other_package(folder: Path) -> None:
    """Refuse a folder that workers of Ray search first, if they would find other code there.

    Raises
    ------
    SettingsError
        If there is a module or a package of our name in it that is another one.
    """
    found = PathFinder.find_spec(fedmetanas.__name__, [str(folder)])
    if found is None or found.origin is None:  # a folder without __init__.py is none
        return
    if digest_of([*(found.submodule_search_locations or []), str(folder)]) != DIGEST:
        raise SettingsError(
            f"{found.origin} is not the fedmetanas that runs here, and Ray's workers, started in "
            "this folder, would take it; start in another folder"
        )
