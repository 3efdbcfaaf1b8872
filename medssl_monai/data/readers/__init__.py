"""One reader for every image a study may hold; a module for each family of formats."""

from medssl_monai.data.readers.listing import FoundImage, list_series
from medssl_monai.data.readers.reader import (
    IMAGE_SUFFIXES,
    ImageHeader,
    MedicalImageReader,
    find_images,
    image_header,
    is_image_path,
    read_image,
)

__all__ = [
    "FoundImage",
    "IMAGE_SUFFIXES",
    "ImageHeader",
    "MedicalImageReader",
    "find_images",
    "image_header",
    "is_image_path",
    "list_series",
    "read_image",
]
