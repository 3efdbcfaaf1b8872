"""What the two publications of the HAM10000 dermoscopy images share: finding each row's image by its id."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from medssl_monai.core import file_digest
from medssl_monai.data.prepare.source import Material, brief

LICENSE = "CC BY-NC 4.0"
_SUFFIXES = (".jpg", ".jpeg", ".png")


class ImageIndex:
    """Images below a folder by file name without suffix.

    Args:
        root: the source, resolved.
        files: the files to index, below ``root``.
    """

    def __init__(self, root: Path, files: Iterable[Path]) -> None:
        self.root = root
        self.by_stem: dict[str, list[Path]] = {}
        self.used: set[str] = set()
        for path in files:
            if path.suffix.lower() in _SUFFIXES:
                self.by_stem.setdefault(path.stem, []).append(path)

    def material(self, image_id: str) -> Material:
        """The image of an id; of several with the same bytes, as some archives hold, the first.

        Raises:
            ValueError: with the reason when there is none, different ones, the id is used twice, or the file is a
                link that leads out of the source.
        """
        paths = self.by_stem.get(image_id, [])
        if not paths:
            raise ValueError(f"no image {image_id!r} (.jpg, .png) below SOURCE")
        if image_id in self.used:
            raise ValueError(f"image {image_id!r} has a row already")
        try:
            materials = [Material.of_file(self.root, path) for path in paths]
        except ValueError as error:
            raise ValueError(f"image {image_id!r} {error}") from error
        if len(paths) > 1 and len({file_digest(path) for path in paths}) > 1:
            shown = brief(material.target for material in materials)
            raise ValueError(f"image {image_id!r} is there {len(paths)} times with different content: {shown}")
        self.used.add(image_id)
        return materials[0]

    def unused(self) -> list[str]:
        """Relative paths of the images that no row asked for."""
        left = [path for stem, paths in self.by_stem.items() if stem not in self.used for path in paths]
        return sorted(path.relative_to(self.root).as_posix() for path in left)
