"""Supports of real abdominal scans: organs lie in the quadrants where anatomy has them."""

from __future__ import annotations

import numpy as np
import pytest
from labelled_scans import tiny_segmenter
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged

from medssl_monai.engines.support import read_scans, remember_supports
from medssl_monai.transforms import scan_transforms

ORGANS = {1: "liver", 2: "right kidney", 3: "left kidney", 4: "spleen"}

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def scans(real_data):
    folder = real_data / "chaos_t2spir"
    keys = ["image", "label"]
    prepare = Compose(
        [LoadImaged(keys), EnsureChannelFirstd(keys), *scan_transforms(*keys, image_size=64)],
    )
    files = sorted(folder.glob("image_*.nii.gz"))
    items = [{"image": str(path), "label": str(path).replace("image_", "label_"), "name": path.name} for path in files]
    return read_scans([prepare(item) for item in items], list(ORGANS))


def test_quadrants_are_those_of_anatomy(scans):
    """Axes are RAS: the first counts from the patient's left to the right, the second from the back to the front."""
    net = tiny_segmenter(4)
    shares = np.array(
        [
            [place.quadrants.numpy() for place in net.organ_places(volume, label)]
            for volume, label in zip(scans.volumes, scans.labels)
        ]
    )
    assert shares.shape == (10, 4, 4)
    np.testing.assert_allclose(shares.sum(axis=2), 1, atol=1e-5)
    right = shares[:, :, 2:].sum(axis=2)
    back = shares[:, :, [0, 2]].sum(axis=2)
    assert (right[:, 1] > 0.95).all()  # the right kidney, in all ten patients
    assert (right[:, 2] < 0.05).all()  # the left kidney
    assert (right[:, 0] > 0.6).all()  # the liver reaches over the middle
    assert (right[:, 3] < 0.05).all()  # the spleen
    assert (back[:, 1:3] > 0.6).all()  # kidneys lie at the back


def test_one_scan_writes_the_bank(scans):
    net = tiny_segmenter(4)
    check = remember_supports(net, type(scans)(*(part[:1] for part in scans)), ORGANS)
    assert [len(one.present) for one in check.organs] == [
        int((scans.labels[0] == organ).flatten(0, 1).any(dim=0).sum()) for organ in range(1, 5)
    ]
    assert all(one.dice > 0 for one in check.organs)
    assert check.organs[0].dice > 0.3  # the liver, even by a net without training
    assert (net.extent[:, 0] < net.extent[:, 1]).all()
    assert net.extent[1, 0] < net.extent[3, 1]  # kidneys begin below the end of the spleen
