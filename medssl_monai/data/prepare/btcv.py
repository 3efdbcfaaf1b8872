"""BTCV (Synapse syn3193805, "Multi-Atlas Labeling Beyond the Cranial Vault", abdomen): CT with 13 organs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from medssl_monai.core import DataError
from medssl_monai.data.prepare.layout import PREPARERS, Draft, Entry, Preparer
from medssl_monai.data.prepare.nifti import mask_values
from medssl_monai.data.prepare.source import Material, brief, path_inside, raise_problems, sorted_entries
from medssl_monai.data.readers import image_header

ORGANS = {
    0: "background", 1: "spleen", 2: "right kidney", 3: "left kidney", 4: "gallbladder", 5: "esophagus", 6: "liver",
    7: "stomach", 8: "aorta", 9: "inferior vena cava", 10: "portal and splenic veins", 11: "pancreas",
    12: "right adrenal gland", 13: "left adrenal gland",
}  # fmt: skip
_RAW = "RawData"


@PREPARERS.register("btcv")
@dataclass(frozen=True, kw_only=True)
class BtcvPreparer(Preparer):
    """One volume a patient; the published NIfTI files are carried over."""

    help: ClassVar[str] = "BTCV abdomen: RawData/Training/img and label (and Testing/img, which has no masks)"
    subject_advice: ClassVar[str] = "The patient is the number in the file's name."

    def read(self, source: Path) -> Draft:
        """See :meth:`Preparer.read`."""
        if not source.is_dir():
            raise DataError("a folder is needed, but this is a file", where=source)
        raw = f"{_RAW}/" if (source / _RAW).is_dir() else ""
        images, masks = (_numbered(source, f"{raw}Training/{kind}", kind) for kind in ("img", "label"))
        if not images:
            raise DataError(
                "no training images here", where=source, expected=f"{_RAW}/Training/img/img0001.nii.gz ...",
                found=brief(path.name for path in sorted_entries(source)) or "nothing",
            )  # fmt: skip
        problems = [f"{images[key]}: there is no mask label{key}.nii.gz" for key in sorted(images.keys() - masks)]
        problems += [f"{masks[key]}: there is no image img{key}.nii.gz" for key in sorted(masks.keys() - images)]
        entries, organs = [], {}
        for key in sorted(images.keys() & masks):
            try:
                image = Material.of_file(source, path_inside(source, images[key]))
                mask = Material.of_file(source, path_inside(source, masks[key]))
                organs[mask.target] = _mask_values(source, images[key], masks[key])
                entries.append(Entry(image, mask, key))
            except DataError as error:
                problems.append(f"{Path(str(error.where)).name} cannot be read ({error.what})")
            except ValueError as error:
                problems.append(f"{masks[key]} {error}")
        tests = _numbered(source, f"{raw}Testing/img", "img")
        for key, path in sorted(tests.items()):
            try:
                entries.append(Entry(Material.of_file(source, path_inside(source, path)), None, key))
            except ValueError as error:
                problems.append(f"{path} {error}")
        raise_problems(problems, source, advice="Unpack the published archive again.")
        notes = (f"the publisher keeps the masks of Testing back: {len(tests)} scans are unlabelled",) if tests else ()
        return Draft(
            task="segmentation",
            labels=dict(ORGANS),
            entries=entries,
            name="btcv",
            modality="CT",
            license="by registration at synapse.org (syn3193805)",
            description="BTCV abdomen (Multi-Atlas Labeling Beyond the Cranial Vault, Synapse syn3193805)",
            organs=organs,
            notes=notes,
        )


def _numbered(source: Path, folder: str, kind: str) -> dict[str, str]:
    """Paths of a folder's volumes relative to the source, by their number."""
    if not (source / folder).is_dir():
        return {}
    try:
        names = [path.name for path in sorted_entries(path_inside(source, folder))]
    except ValueError as error:
        raise DataError(f"{folder} {error}", where=source) from error
    matches = [(name, re.fullmatch(rf"{kind}(\d+)\.nii(?:\.gz)?", name)) for name in names]
    return {match.group(1): f"{folder}/{name}" for name, match in matches if match}


def _mask_values(source: Path, image: str, mask: str) -> frozenset[int]:
    """The organs a mask shows.

    Raises:
        ValueError: with the reason when it is no mask of the image.
    """
    shapes = [image_header(path_inside(source, name)).shape for name in (image, mask)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"has shape {shapes[1]}, its image {shapes[0]}")
    values = mask_values(path_inside(source, mask))
    if strange := sorted(values - ORGANS.keys()):
        raise ValueError(f"holds {brief(strange)}, which stands for no organ (0 to 13)")
    return values
