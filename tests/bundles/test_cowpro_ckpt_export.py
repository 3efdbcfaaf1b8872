"""The abdominal bundle's model as TorchScript, by MONAI's own command, equal to the network that wrote it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser, ckpt_export
from monai.data import MetaTensor
from torch import Tensor

from medssl_monai.apps.run import run_stage
from medssl_monai.core import bundle_dir, overlay_path
from medssl_monai.data import load_datalist
from medssl_monai.data.phantoms import make_phantom

BUNDLE = "cowpro_abdominal_segmentation"
SETTINGS: dict[str, Any] = {
    "backbone": "resnet18", "stages": 3, "image_size": 64, "field_of_view": 400.0, "pool": 2, "top_fraction": 0.5,
    "renormalize_aggregate": True, "quadrant_prior": "soft",
}  # fmt: skip

pytestmark = pytest.mark.bundle


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scans") / "data"
    make_phantom("abdomen", folder, subjects=6, size=64, seed=3)
    return folder


@pytest.fixture(scope="module")
def trained(scans: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The models folder of a bank of two of the four organs."""
    folder = tmp_path_factory.mktemp("run")
    settings = {"dataset_dir": str(scans), "pretrained": None, "labels": ["liver", "spleen"], **SETTINGS}
    run_stage(BUNDLE, "train", settings, ["smoke"], folder)
    return folder / "models"


def parsed(trained: Path, scans: Path) -> ConfigParser:
    """The inference stage with the settings of the training."""
    parser = ConfigParser()
    parser.read_config([str(bundle_dir(BUNDLE) / "configs/inference.yaml"), str(overlay_path("smoke"))])
    for key, value in {"ckpt_dir": str(trained), "dataset_dir": str(scans), "device": "cpu", **SETTINGS}.items():
        parser[key] = value
    return parser


@pytest.fixture(scope="module")
def exported(trained: Path) -> Path:
    """``model.ts`` as a user writes it, in a process of its own, without the smoke overlay."""
    settings = {"ckpt_dir": trained, "width": 0.125, **SETTINGS}
    command = [
        sys.executable, "-m", "monai.bundle", "ckpt_export", "network_def", "--filepath", str(trained / "model.ts"),
        "--ckpt_file", str(trained / "model.pt"), "--meta_file", "configs/metadata.json",
        "--config_file", "configs/inference.yaml",
        *(part for key, value in settings.items() for part in (f"--{key}", str(value))),
    ]  # fmt: skip
    result = subprocess.run(
        command, cwd=bundle_dir(BUNDLE), capture_output=True, text=True, check=False, timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return trained / "model.ts"


def test_equal_on_scans_that_the_bundle_has_read(exported: Path, trained: Path, scans: Path) -> None:
    parser = parsed(trained, scans)
    network = parser.get_parsed_content("network_def").eval()
    network.load_state_dict(torch.load(trained / "model.pt", weights_only=True))
    script = torch.jit.load(exported)
    assert not script.training
    read = parser.get_parsed_content("preprocessing")
    names = [item.name for item in load_datalist(scans).splits["test"]]
    volumes: list[Tensor] = []
    for name in names[:2]:
        image = read({"image": str(scans / name)})["image"]
        assert isinstance(image, MetaTensor)
        volumes.append(image.as_tensor()[None])
    volumes.append(torch.cat([volumes[0], volumes[0].flip(2)]))
    volumes.append(volumes[0][..., 10])
    with torch.no_grad():
        for volume in volumes:
            expected = network(volume)
            assert expected.shape[1] == 3
            torch.testing.assert_close(script(volume), expected, rtol=0, atol=1e-4)
        assert {0, 1, 2} <= set(network(volumes[0]).argmax(dim=1).unique().tolist())


def test_it_carries_configuration_and_metadata(exported: Path) -> None:
    files = {"inference.json": "", "metadata.json": ""}
    torch.jit.load(exported, _extra_files=files)
    assert json.loads(files["metadata.json"])["network_data_format"]["outputs"]["pred"]["num_channels"] == 5
    assert json.loads(files["inference.json"])["network_def"]["_target_"] == "medssl_monai.networks.CoWProSegmenter"


@pytest.mark.parametrize(
    ("left_out", "message"), [("width", "size mismatch for encoder"), ("ckpt_dir", "size mismatch for foreground")]
)
def test_settings_of_another_network_are_refused(trained: Path, tmp_path: Path, left_out: str, message: str) -> None:
    """Without ``ckpt_dir`` the four organs of the bundle's own list are meant."""
    settings = {"ckpt_dir": str(trained), "width": 0.125, **SETTINGS}
    del settings[left_out]
    root = bundle_dir(BUNDLE)
    with pytest.raises(RuntimeError, match=message):
        ckpt_export(
            "network_def", str(tmp_path / "model.ts"), str(trained / "model.pt"), str(root / "configs/metadata.json"),
            str(root / "configs/inference.yaml"), **settings,
        )  # fmt: skip
    assert not (tmp_path / "model.ts").exists()
