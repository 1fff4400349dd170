"""Which code this process runs: a digest, by which a server knows that its clients run the same."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

import fedmetanas

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
