"""One image file: what its header says, and its pixels as a person sees them."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from PIL.Image import Image

#: What Pillow is asked to read; some of its other formats start programs.
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "AVIF", "PPM")
GREY_MODES = ("1", "L", "LA")
#: Where a file is, or its bytes; asked for anew whenever it is read.
Content = Callable[[], Path | BinaryIO]


@dataclass(frozen=True)
class Header:
    """What the header of an image file says.

    Attributes
    ----------
    size : tuple of int
        Width and height in pixels, of the upright image.
    grey : bool
        Whether the image has no colours.
    deep : bool
        Whether a channel has more than 8 bits.
    """

    size: tuple[int, int]
    grey: bool
    deep: bool


def read_header(content: Content) -> Header:
    """Read the header of an image file.

    Raises
    ------
    Exception
        Of almost any kind, if it is not a sound image: Pillow's readers raise OSError, SyntaxError,
        struct.error, ...
    """
    with _opened(content) as image:
        width, height = image.size
        if _lies_on_its_side(image):
            width, height = height, width
        return Header((width, height), image.mode in GREY_MODES, _is_deep(image))


def read_pixels(
    content: Content, channels: int, side: int | None = None, resize: str = "crop"
) -> npt.NDArray[np.uint8]:
    """Read an image file: upright as its EXIF data say, and on white where it is transparent.

    Of an animation the first picture is read.

    Parameters
    ----------
    content : callable
        Returns the file's path, or its bytes in an open file.
    channels : {1, 3}
        Grey or RGB.
    side : int, optional
        Side in pixels of the square that is returned; without it the image keeps its size.
    resize : {"crop", "squash"}
        How an image that is not square becomes so: the shorter side is resized and the middle cut
        out, or both sides are resized. Both are torchvision's, with antialiasing.

    Returns
    -------
    np.ndarray
        uint8, shape (H, W, C).

    Raises
    ------
    Exception
        As :func:`read_header`.
    """
    from PIL import Image, ImageOps

    with _opened(content) as opened:
        image = ImageOps.exif_transpose(opened)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("L" if channels == 1 else "RGB")
    if side is not None:
        image = _square(image, side, resize)
    return np.asarray(image).reshape(image.height, image.width, channels)


@contextmanager
def _opened(content: Content) -> "Iterator[Image]":
    from PIL import Image, UnidentifiedImageError

    file = content()
    if isinstance(file, Path) and not file.is_file():
        raise OSError("not a regular file")  # opening it might wait for ever
    try:
        image = Image.open(file, formats=FORMATS)
    except UnidentifiedImageError:  # its words are the path
        raise OSError("not an image of a known format") from None
    with image:
        yield image


def _lies_on_its_side(image: "Image") -> bool:
    """Whether width and height are to be swapped for the image to stand upright."""
    from PIL import ExifTags

    if image.format == "TIFF":  # Pillow has swapped them
        return False
    if image.format == "PNG" and "exif" not in image.info:  # or Pillow would read all pixels
        return False
    return image.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)


def _is_deep(image: "Image") -> bool:
    """Whether a channel has more than 8 bits; Pillow shows most of these as if it had 8."""
    if image.mode.startswith(("I", "F")):
        return True
    for tile in image.tile:  # type: ignore[attr-defined]  # of what was opened from a file
        arguments = tile.args if isinstance(tile.args, tuple) else (tile.args,)
        if any(isinstance(one, str) and re.search(r";16[BLN]", one) for one in arguments):
            return True
        if tile.codec_name in ("ppm", "ppm_plain") and arguments[-1] > 255:  # its largest value
            return True
    return False


def _square(image: "Image", side: int, resize: str) -> "Image":
    from PIL.Image import MAX_IMAGE_PIXELS
    from torchvision.transforms import functional

    if resize == "squash":
        squashed: Image = functional.resize(image, [side, side], antialias=True)
        return squashed
    longer = side * max(image.size) // min(image.size)
    if MAX_IMAGE_PIXELS is not None and side * longer > MAX_IMAGE_PIXELS:
        width, height = image.size
        raise ValueError(f"{width}x{height} is too narrow to cut out a square of {side}x{side}")
    fitting = functional.resize(image, [side], antialias=True)
    middle: Image = functional.center_crop(fitting, [side, side])
    return middle
