"""PNG, JPEG, TIFF and BMP through Pillow, in MONAI's axis order (width, height, channels)."""

from __future__ import annotations

import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFile, ImageOps

from medssl_monai.core import DataError
from medssl_monai.data.readers.common import ImageHeader, Loaded, damaged_file, spatial_metadata
from medssl_monai.data.readers.itk_images import image_io, itk_header, read_itk

_ERRORS = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)
_TIFF_BITS, _TIFF_SAMPLE_FORMAT = 258, 339
_TURNED = range(5, 9)  # EXIF orientations that swap width and height
_TYPES = {"F": "float32", "I": "int32", "I;16": "uint16", "I;16B": "uint16", "I;16L": "uint16", "I;16N": "uint16"}


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """Open with Pillow; a picture that ends too soon is an error, whatever another library has told Pillow."""
    tolerant = ImageFile.LOAD_TRUNCATED_IMAGES
    if tolerant:
        ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        with damaged_file(path, "an image", *_ERRORS), Image.open(path) as image:
            yield image
    finally:
        if tolerant:
            ImageFile.LOAD_TRUNCATED_IMAGES = True


def read_raster(path: Path) -> Loaded:
    """Read a picture as an array (W, H) or (W, H, channels).

    For a plain 8-bit grey or RGB picture this is what MONAI's ``PILReader`` gives. Beyond it: the EXIF orientation is
    applied, palettes become colours, CMYK and YCbCr become RGB, an alpha channel that hides nothing is dropped, one-bit
    pictures become 0 and 255, and colours of 16 bits keep their values (Pillow would cut them to 8).

    Raises:
        DataError: when the file is damaged, cut short, far too large or of a colour space without a conversion.
    """
    with _opened(path) as image:
        pages, pillow_reads = getattr(image, "n_frames", 1), not _has_deep_colour(path, image)
        if pages > 1 and image.format != "MPO":  # MPO: a JPEG with previews of itself
            warnings.warn(f"{path}: {pages} pages, only the first is read.", UserWarning, stacklevel=2)
        array = np.moveaxis(_pixels(image, path), 0, 1) if pillow_reads else None
        itk_io = None if pillow_reads else _itk_io(image, path)
        orientation = _orientation(image, path)
    if array is None:
        array = _turned(read_itk(path, itk_io, "an image")[0], orientation)
    if array.ndim == 3 and array.shape[2] in (2, 4) and (array[..., -1] == _opaque(array.dtype)).all():
        array = array[..., 0] if array.shape[2] == 2 else array[..., :3]
    has_channels = array.ndim == 3
    return array, spatial_metadata(array.shape[:2], affine=None, has_channels=has_channels)


def raster_header(path: Path) -> ImageHeader:
    """Header of a picture; decoded only where alpha may be there, since alpha that hides nothing is dropped."""
    with _opened(path) as image:
        size, deep = image.size, _has_deep_colour(path, image)
        if _orientation(image, path) in _TURNED:
            size = size[::-1]
        may_have_alpha = image.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in image.info
        if not may_have_alpha:
            if deep:
                io = _itk_io(image, path)
                dtype, _, _ = itk_header(path, io, "an image")
                return ImageHeader(size, int(io.GetNumberOfComponents()), dtype)
            grey = image.mode in ("1", "L", *_TYPES)
            return ImageHeader(
                size, 1 if grey else 3, _integer_type(image) or np.dtype(_TYPES.get(image.mode, "uint8"))
            )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the pages are named when the picture itself is read
        array, _ = read_raster(path)
    return ImageHeader(array.shape[:2], array.shape[2] if array.ndim == 3 else 1, array.dtype)


def _pixels(image: Image.Image, path: Path) -> NDArray[Any]:
    """Pixels (H, W) or (H, W, channels), upright, in the colours meant."""
    image.load()
    integers = _integer_type(image)
    image = ImageOps.exif_transpose(image) or image
    mode = image.mode
    if mode == "1":
        image = image.convert("L")
    elif mode in ("P", "PA"):
        image = image.convert("RGBA" if mode == "PA" or "transparency" in image.info else "RGB")
    elif "transparency" in image.info and mode in ("L", "RGB"):
        image = image.convert("LA" if mode == "L" else "RGBA")
    elif mode in ("La", "RGBa"):
        image = image.convert(mode.upper())
    elif mode in ("CMYK", "YCbCr", "HSV", "RGBX"):
        image = image.convert("RGB")
    elif mode not in ("L", "LA", "RGB", "RGBA", *_TYPES):
        raise DataError(
            "colours cannot be converted to RGB", where=path, found=f"mode {mode}", advice="Save it as RGB."
        )
    array = np.asarray(image)
    if integers is not None:
        array = array.astype(integers)
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))


def _integer_type(image: Image.Image) -> np.dtype[Any] | None:
    """The unsigned type behind Pillow's signed 32-bit mode; ``None`` where Pillow's own type is right."""
    if image.mode != "I":
        return None
    if image.format == "PNG":  # how Pillow before 11 gives 16-bit grey
        return np.dtype("uint16")
    if image.format == "TIFF":
        tags = image.tag_v2  # type: ignore[attr-defined]
        if tags.get(_TIFF_BITS, (8,))[0] == 32 and tags.get(_TIFF_SAMPLE_FORMAT, (1,))[0] == 1:
            return np.dtype("uint32")
    return None


def _orientation(image: Image.Image, path: Path) -> int:
    """EXIF orientation, 1 to 8; 1 is upright."""
    # Asked for it, Pillow decodes a whole PNG to look behind the pixels; the chunks' names tell sooner
    if image.format == "PNG" and "exif" not in image.info and not _has_chunk(path, b"eXIf"):
        return 1
    return int(image.getexif().get(ExifTags.Base.Orientation, 1))


def _has_chunk(path: Path, name: bytes) -> bool:
    with open(path, "rb") as stream:
        stream.seek(8)
        while len(head := stream.read(8)) == 8:
            if head[4:] == name:
                return True
            stream.seek(int.from_bytes(head[:4], "big") + 4, 1)
    return False


def _has_deep_colour(path: Path, image: Image.Image) -> bool:
    """Whether the file has several channels of 16 bits, which Pillow would silently cut to 8."""
    if image.format == "PNG":
        with open(path, "rb") as stream:
            head = stream.read(26)
        depth, colour = head[24], head[25]
        return depth == 16 and colour != 0
    if image.format == "TIFF":
        bits = image.tag_v2.get(_TIFF_BITS, (8,))  # type: ignore[attr-defined]
        return len(bits) > 1 and max(bits) == 16
    return False


def _itk_io(image: Image.Image, path: Path) -> Any:
    """ITK's format for a picture of deep colours; a TIFF that ITK would cut to 8 bits as well is refused."""
    if image.format == "PNG":
        return image_io("PNGImageIO")
    orientation = _orientation(image, path)
    io = image_io("TIFFImageIO")
    # ITK turns some orientations itself and reads the others in 8 bits
    if orientation != 1 or itk_header(path, io, "an image")[0] != np.uint16:
        raise DataError(
            "is a TIFF with colours of 16 bits that cannot be read without loss",
            where=path,
            found=f"orientation {orientation}",
            expected="orientation 1, unsigned 16-bit channels side by side",
            advice="Save it upright as PNG, or with 8 bits.",
        )
    return io


def _turned(array: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Apply an EXIF orientation to an array (W, H, channels)."""
    if orientation in _TURNED:
        array = np.swapaxes(array, 0, 1)
    if orientation in (2, 3, 6, 7):
        array = array[::-1]
    if orientation in (3, 4, 7, 8):
        array = array[:, ::-1]
    return array


def _opaque(dtype: np.dtype[Any]) -> int:
    return int(np.iinfo(dtype).max)
