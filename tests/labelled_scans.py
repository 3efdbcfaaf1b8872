"""A small dataset of labelled scans on disk: two organs of smooth shapes in a body, slices along the last axis."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged

from medssl_monai.networks import CoWProHead, CoWProSegmenter, DenseEncoder
from medssl_monai.transforms import scan_transforms

ORGANS = {3: "liver", 7: "spleen"}
SIZE, SLICES = 48, 16
#: organs' first and last slice in each scan
RANGES = [((3, 8), (5, 12)), ((4, 9), (4, 10)), ((2, 8), (6, 12))]


def write_scan(folder: Path, number: int, ranges=None) -> dict[str, str]:
    """Write a scan and its mask; its entry in the datalist."""
    maker = np.random.default_rng(number)
    image = 10 * maker.random((SIZE, SIZE, SLICES))
    image[3:45, 4:44, 1:15] += 300
    mask = np.zeros((SIZE, SIZE, SLICES), np.uint8)
    for (first, last), value, row, column in zip(ranges or RANGES[number], ORGANS, (5, 22), (8, 24)):
        for place in range(first, last + 1):
            mask[row + place // 3 : row + 18, column + number : column + 14 + number, place] = value
    image += 250 * (mask == 3) + 500 * (mask == 7)
    affine = np.diag([2.0, 2.0, 8.0, 1.0])
    nib.save(nib.Nifti1Image(image.astype(np.float32), affine), folder / f"scan{number}.nii.gz")
    nib.save(nib.Nifti1Image(mask, affine), folder / f"mask{number}.nii.gz")
    return {"image": f"scan{number}.nii.gz", "label": f"mask{number}.nii.gz", "subject": f"subject:P{number}"}


def write_dataset(folder: Path, number: int = 3) -> Path:
    """A dataset folder with ``number`` labelled scans for training."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "name": "toy", "modality": "MR", "task": "segmentation",
        "labels": {"0": "background", **{str(value): name for value, name in ORGANS.items()}},
        "license": "none", "training": [write_scan(folder, scan) for scan in range(number)],
    }  # fmt: skip
    (folder / "datalist.json").write_text(json.dumps(content))
    return folder


def preparing() -> Compose:
    """The chain from files to what the net takes."""
    keys = ["image", "label"]
    return Compose(
        [
            LoadImaged(keys),
            EnsureChannelFirstd(keys),
            *scan_transforms("image", "label", image_size=SIZE, field_of_view=2.0 * SIZE, slice_spacing=8.0),
        ]
    )


def tiny_segmenter(organs: int = len(ORGANS), **kwargs) -> CoWProSegmenter:
    """A segmenter of a few thousand weights, always the same."""
    state = torch.get_rng_state()
    torch.manual_seed(0)
    encoder = DenseEncoder("resnet18", in_channels=1, width=0.0625, num_features=6, stages=3)
    torch.set_rng_state(state)
    return CoWProSegmenter(encoder, CoWProHead(pool=2), organs, **kwargs).eval()
