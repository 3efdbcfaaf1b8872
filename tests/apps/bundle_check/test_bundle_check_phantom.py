"""Which phantom a bundle's stages are built on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from medssl_monai.apps.bundle_check.execute import _phantom
from medssl_monai.apps.bundle_check.source import Bundle, read_bundle


def bundle(folder: Path, name: str, modality: str, labels: object) -> Bundle:
    root = folder / name
    (root / "configs").mkdir(parents=True)
    inputs = {"inputs": {"image": {"modality": modality}}}
    (root / "configs" / "metadata.json").write_text(json.dumps({"network_data_format": inputs}))
    (root / "configs" / "train.json").write_text(json.dumps({"labels": labels}))
    return read_bundle(root)


@pytest.mark.parametrize(
    ("name", "modality", "labels", "kind"),
    [
        ("organs_segmentation", "MR", None, "abdomen"),
        ("organs_segmentation", "MR", ["liver", "spleen"], "abdomen"),
        ("organs_segmentation", "MR", ["heart"], None),
        ("organs_segmentation", "CT", None, None),
        ("knee_classification", "MR", ["abnormal", "acl", "meniscus"], "knee"),
        ("knee_classification", "MR", None, "knee"),
        ("knee_classification", "MR", ["acl"], None),
        ("skin_classification", "dermoscopy", None, "skin_lesions"),
    ],
)
def test_modality_task_and_labels_choose_the_phantom(
    tmp_path: Path, name: str, modality: str, labels: object, kind: str | None
) -> None:
    assert _phantom(bundle(tmp_path, name, modality, labels)) == kind
