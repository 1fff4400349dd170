"""Files that are written whole or not at all, what is in them, and folders of one process."""

import contextlib
import fcntl
import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from fedmetanas.errors import SettingsError, UnwritableError
from fedmetanas.strategies.aggregation import AnyArray


def json_text(tree: Any, indent: int | None = None) -> str:
    """Return plain data as JSON, which knows no NaN and no infinity: they become null."""
    return json.dumps(_finite(tree), indent=indent, allow_nan=False)


def _finite(tree: Any) -> Any:
    if isinstance(tree, float):
        return tree if math.isfinite(tree) else None
    if isinstance(tree, Mapping):
        return {key: _finite(value) for key, value in tree.items()}
    return [_finite(value) for value in tree] if isinstance(tree, list | tuple) else tree


def expanded(path: str | Path, option: str = "out") -> Path:
    """Return a path in which ``~`` stands for no home folder any more.

    Raises
    ------
    SettingsError
        If the home folder is unknown.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise SettingsError(f"{option}: {path} names a home folder that is unknown") from None


def write_file(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, also if the process is killed or the power fails.

    Raises
    ------
    UnwritableError
        If it cannot be written; what was there before is still there.
    """
    draft = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(exist_ok=True)
        with draft.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise unwritable(path, error) from error


def unwritable(path: Path, error: OSError) -> UnwritableError:
    """Return the error that says why a file of the run cannot be written."""
    return UnwritableError(f"cannot write {path}: {error.strerror}")


@contextlib.contextmanager
def alone_in(folder: Path, option: str) -> Iterator[None]:
    """Hold a folder against other runs and comparisons, until this one or its process ends.

    Raises
    ------
    SettingsError
        If another holds it; the message names `option`.
    """
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise SettingsError(f"{option}: cannot open {folder}: {error.strerror}") from None
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SettingsError(f"{option}: another run is at work in {folder}") from None
        except OSError as error:
            raise SettingsError(
                f"{option}: cannot lock {folder}: {error.strerror}; choose a folder on another disk"
            ) from None
        yield
    finally:
        os.close(handle)


def read_arrays(path: Path) -> tuple[dict[str, AnyArray], dict[str, str]]:
    """Read the arrays of a safetensors file, and the texts in its header.

    Raises
    ------
    OSError, ValueError
        If it cannot be read.
    """
    path.open("rb").close()  # for the words of the operating system, where there is no file
    try:
        with safe_open(path, framework="numpy") as file:
            arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            return arrays, file.metadata() or {}
    except (SafetensorError, TypeError) as error:
        raise ValueError(" ".join(str(error).split())) from None


def digest(text: str, arrays: Mapping[str, AnyArray]) -> str:
    """Return a digest of a text and of arrays with their names, types and shapes."""
    result = hashlib.sha256(text.encode())
    for key in sorted(arrays):
        array = arrays[key]
        result.update(f"{key} {array.dtype.str} {array.shape}".encode())
        result.update(array.tobytes())
    return result.hexdigest()
