"""Contact sheets."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from medssl_monai.core import DataError
from medssl_monai.data.datalist import Datalist, Item
from medssl_monai.data.phantoms import contact_sheet

COLOURS = {"red": (200, 0, 0), "green": (0, 200, 0), "blue": (0, 0, 200)}


@pytest.fixture
def painted(tmp_path):
    """One colour a class; class 0 has three subjects (one of two images), 1 has one, 2 only unlabelled."""
    items, extra = [], []
    for label, (name, subjects) in enumerate(zip(COLOURS, [(0, 0, 1, 2), (3,), (4,)], strict=True)):
        for number, subject in enumerate(subjects):
            path = f"{name}{number}.png"
            Image.new("RGB", (30, 20), COLOURS[name]).save(tmp_path / path)
            item = Item(path, label if label < 2 else None, f"subject:{subject}")
            (items if label < 2 else extra).append(item)
    return Datalist("painted", "multiclass", list(COLOURS), {"training": items, "unlabeled": extra}, root=tmp_path)


def test_rows_are_classes_and_tiles_are_subjects(painted):
    sheet = contact_sheet(painted, columns=4, tile=60)
    assert sheet.dtype == np.uint8
    assert sheet.shape[0] == 3 * 62 + 2
    areas = {name: int((sheet == colour).all(-1).sum()) for name, colour in COLOURS.items()}
    tile = 60 * 40  # 30 x 20 fitted into 60 x 60
    assert areas == {"red": 3 * tile, "green": tile, "blue": 0}
    rows = {name: np.flatnonzero((sheet == COLOURS[name]).all(-1).any(1)) for name in ("red", "green")}
    assert rows["red"].max() < 62 < rows["green"].min()
    assert (sheet[:, :30] < 128).any()  # the names
    np.testing.assert_array_equal(sheet, contact_sheet(painted, columns=4, tile=60))
    assert int((contact_sheet(painted, columns=2, tile=60) == COLOURS["red"]).all(-1).sum()) == 2 * tile
    dark = contact_sheet(painted, background=0)
    assert (dark[-1] == 0).all()


def test_errors(painted, tmp_path):
    with pytest.raises(ValueError, match="columns and tile must be positive, got 0 and 96"):
        contact_sheet(painted, columns=0)
    masks = Datalist("m", "segmentation", {0: "background"}, {}, root=tmp_path)
    with pytest.raises(DataError, match=r"one row a class \(found task segmentation, expected class indices\)"):
        contact_sheet(masks)
    with pytest.raises(DataError, match="no labelled single-image item"):
        contact_sheet(Datalist("e", "multiclass", ["a"], {}, root=tmp_path))
    (tmp_path / "green0.png").write_text("not an image")
    with pytest.raises(DataError, match=r"green0.png: cannot be shown as a 2-D picture. PNG, JPEG and TIFF can\."):
        contact_sheet(painted)
