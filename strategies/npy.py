"""Arrays as the bytes that Flower sends: NumPy's file format, its headers read and written once.

Flower reads and writes each array with ``numpy.load`` and ``numpy.save``, and most of their time
goes into the header. The arrays of a supernet have few different ones.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from io import BytesIO
from typing import Any, NamedTuple

import numpy as np
from flwr.app import Array

from .aggregation import AnyArray
from .flower import array_of

MAGIC = b"\x93NUMPY\x01\x00"
START = len(MAGIC) + 2  # behind the two bytes with the length of the header
USUAL = 128  # bytes up to the values, but for arrays of very many dimensions


def to_array(values: AnyArray) -> Array:
    """Return Flower's array of some values, by the byte the one it makes of them in row order."""
    header = _written_header(values.dtype, values.shape)
    return array_of(header, header.data + values.tobytes())


def from_array(array: Array) -> AnyArray:
    """Return the values of Flower's array, read-only where they need not be copied.

    Raises
    ------
    ValueError
        If the bytes are not an array of numbers of the size that their header says.
    """
    data = array.data
    header = _read_header(data[:USUAL])
    if header is None:
        file = BytesIO(data)
        values = np.load(file, allow_pickle=False)
        if not isinstance(values, np.ndarray):  # as NumPy makes of a ZIP file
            raise ValueError("something else than one array was sent")
        if file.tell() != len(data):
            raise ValueError(f"an array of {file.tell()} bytes was sent as {len(data)}")
        return values
    if len(data) != header.size:
        raise ValueError(f"an array of {header.size} bytes was sent as {len(data)}")
    if header.columns_first:
        return np.ndarray(header.shape, header.dtype, data, header.start, order="F")
    return np.ndarray(header.shape, header.dtype, data, header.start)


def all_numbers(arrays: Sequence[Array]) -> AnyArray:
    """Return the numbers of at least one of Flower's arrays, one array after the other.

    Raises
    ------
    ValueError
        As :func:`from_array` does.
    """
    # An array for each, only to join them, would take several times as long.
    headers = [_read_header(array.data[:USUAL]) for array in arrays]
    usual = [header for header in headers if header is not None and not header.columns_first]
    types = {header.dtype for header in usual}
    sizes = [len(array.data) for array in arrays]
    if len(types) != 1 or sizes != [header.size for header in usual]:
        return np.concatenate([from_array(array).ravel() for array in arrays])
    pairs = zip(arrays, usual, strict=True)
    return np.frombuffer(b"".join([a.data[header.start :] for a, header in pairs]), types.pop())


def forms(arrays: Sequence[Array]) -> list[list[Any]]:
    """Return what tells arrays of the same types and shapes from others, if all are in order."""
    return [
        [(array.stype, array.dtype, array.shape) for array in arrays],
        [len(array.data) for array in arrays],
        [array.data[:USUAL] for array in arrays],
    ]


class _Header(NamedTuple):
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    columns_first: bool
    start: int  # of the values, in bytes
    size: int  # with the values, in bytes


@lru_cache(maxsize=10_000)
def _written_header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> Array:
    """Return an array of which all is there but the values."""
    file = BytesIO()
    facts = {"descr": dtype.str, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, facts)
    return Array(dtype.name, shape, "numpy.ndarray", file.getvalue())


@lru_cache(maxsize=10_000)
def _read_header(head: bytes) -> _Header | None:
    """Read what is before the values; None if it is not of the usual length and version."""
    start = START + int.from_bytes(head[len(MAGIC) : START], "little")
    if not head.startswith(MAGIC) or start > len(head):
        return None
    shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(BytesIO(head[len(MAGIC) :]))
    if dtype.hasobject:
        raise ValueError("an array of objects was sent; only numbers are read")
    size = start + math.prod(shape) * dtype.itemsize
    return _Header(shape, dtype, fortran_order, start, size)
