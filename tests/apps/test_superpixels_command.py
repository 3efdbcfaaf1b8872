"""``medssl superpixels``: what it prepares is what the stage would, once, in several processes."""

from __future__ import annotations

import json
import logging
import os
import re
from pathlib import Path

import nibabel
import numpy as np
import pytest
import yaml
from monai.bundle import ConfigParser

from medssl_monai.apps import superpixels
from medssl_monai.apps.cli import main
from medssl_monai.apps.run import resolve_config
from medssl_monai.core import ConfigError, bundle_dir

PRETRAIN = {
    "bundle_root": ".", "dataset_dir": "$@bundle_root + '/data'", "output_dir": "$@bundle_root + '/eval'",
    "ckpt_dir": "$@bundle_root + '/models'", "seed": 0, "image_size": 32, "spacing": None,
    "cache_dir": "$@output_dir + '/prepared'",
    "datalist": {"_target_": "medssl_monai.data.load_datalist", "folder": "@dataset_dir"},
    "train": {
        "dataset": {
            "_target_": "medssl_monai.data.episode_dataset", "data": "$@datalist.records('unlabeled')",
            "cache_dir": "@cache_dir", "seed": "@seed", "image_size": "@image_size", "field_of_view": 64.0,
            "slice_spacing": "@spacing", "progress": False,
        },
    },
    "run": ["$len(@train::dataset)"],
}  # fmt: skip


@pytest.fixture
def bundle(tmp_path):
    configs = tmp_path / "bundle" / "configs"
    configs.mkdir(parents=True)
    (configs / "metadata.json").write_text(json.dumps({"version": "0.1.0", "task": "nothing"}))
    (configs / "pretrain.yaml").write_text(yaml.safe_dump(PRETRAIN, sort_keys=False))
    return tmp_path / "bundle"


@pytest.fixture
def data(tmp_path):
    """Five scans of three slices; the one of ``test`` is nobody's to learn from."""
    folder = tmp_path / "data"
    folder.mkdir()
    items = []
    for n in range(5):
        rng = np.random.default_rng(n)
        volume = rng.normal(20, 3, (32, 32, 3))
        volume[4:28, 6:26] += 300
        volume[8:16, 8:16] += 100 * (n + 1)
        nibabel.save(
            nibabel.Nifti1Image(volume.astype(np.float32), np.diag([2.0, 2, 5, 1])), folder / f"scan{n}.nii.gz"
        )
        items.append({"image": f"scan{n}.nii.gz", "subject": f"subject:{n}"})
    content = {"name": "d", "task": "segmentation", "labels": {"0": "background", "1": "liver"}}
    (folder / "datalist.json").write_text(json.dumps({**content, "unlabeled": items[:4], "test": items[4:]}))
    return folder


def medssl(bundle, data, *words):
    return main([str(word) for word in ("superpixels", data, "--bundle", bundle, *words)])


def stored(folder):
    return sorted(Path(folder).rglob("*.volume"))


def test_the_stage_finds_what_was_prepared(bundle, data, tmp_path, capsys, caplog):
    cache = tmp_path / "cache"
    assert medssl(bundle, data, "--cache-dir", cache, "--workers", 2) == 0
    printed = capsys.readouterr().out
    made = stored(cache)
    assert len(made) == 4
    size = sum(path.stat().st_size for path in made) / 2**20
    found = re.fullmatch(rf"{cache}: 4 scans, 4 of them made now in [\d.]+ s; 12 slices, (\d+) superpixels, "
                         rf"{size:.1f} MiB\n", printed)  # fmt: skip
    assert found
    # the stage's own dataset, from its configuration
    config, _ = resolve_config(bundle, "pretrain", {"dataset_dir": str(data), "cache_dir": str(cache)})
    with caplog.at_level(logging.INFO, "medssl_monai.data.volumes"):
        dataset = ConfigParser(config).get_parsed_content("train::dataset")
    assert "prepared 0 of 4 items" in caplog.text
    assert stored(cache) == made
    labels = [dataset._mapped(index).item["superpixels"].numpy() for index in range(4)]
    assert int(found[1]) == sum(len(np.unique(one)) - 1 for scan in labels for one in scan)


def test_an_interrupted_run_goes_on(bundle, data, tmp_path, capsys):
    cache = tmp_path / "cache"
    medssl(bundle, data, "--cache-dir", cache, "--workers", 1)
    stamps = {path: path.stat().st_mtime_ns for path in stored(cache)}
    lost = next(iter(stamps))
    content = lost.read_bytes()
    lost.unlink()
    capsys.readouterr()
    assert medssl(bundle, data, "--cache-dir", cache) == 0
    assert ": 4 scans, 1 of them made now in" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in stored(cache) if path != lost} == {
        path: stamp for path, stamp in stamps.items() if path != lost
    }
    assert lost.read_bytes() == content
    assert medssl(bundle, data, "--cache-dir", cache) == 0
    assert ": 4 scans, all there already; 12 slices" in capsys.readouterr().out


def test_settings_of_the_stage_are_followed(bundle, data, tmp_path, capsys):
    assert medssl(bundle, data, "--run-dir", tmp_path / "run", "image_size=24", "spacing=2.5") == 0
    assert f"{tmp_path / 'run' / 'eval' / 'prepared'}: 4 scans" in capsys.readouterr().out
    overrides = {"dataset_dir": str(data), "image_size": 24, "spacing": 2.5}
    settings = superpixels.stage_settings(bundle, overrides, run_dir=tmp_path / "run")
    assert settings["image_size"] == 24
    assert settings["slice_spacing"] == 2.5
    assert [record["name"] for record in settings["data"]] == [f"scan{n}.nii.gz" for n in range(4)]
    (path, *_) = [scan.path for scan in superpixels.prepare(settings, 1)]
    assert path in stored(tmp_path / "run")
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text("image_size: 16\n")
    assert medssl(bundle, data, "--cache-dir", tmp_path / "c", "--overlay", overlay) == 0
    assert {path.stat().st_size < 3 * 16 * 16 * 4 + 4096 for path in stored(tmp_path / "c")} == {True}


def test_one_bad_scan_does_not_stop_the_others(bundle, data, tmp_path, capsys):
    (data / "scan2.nii.gz").write_bytes((data / "scan2.nii.gz").read_bytes()[:200])
    cache = tmp_path / "cache"
    assert medssl(bundle, data, "--cache-dir", cache, "--workers", 2) == 2
    message = capsys.readouterr().err
    assert "medssl: 1 of 4 scans cannot be prepared; the others are there. The first: " in message
    assert "scan2.nii.gz" in message
    assert len(stored(cache)) == 3


def test_errors(bundle, data, tmp_path, capsys):
    for words, message in (
        (["image_sze=3"], "'image_sze': nothing in bundle reads it. Did you mean 'image_size'?"),
        (["--workers", 0], "--workers must be at least 1 (found 0)"),
        (["image_size=0"], "episode_dataset: scan_transforms: image_size must be a positive integer, got 0"),
    ):
        assert medssl(bundle, data, "--cache-dir", tmp_path / "c", *words) == 2
        assert message in capsys.readouterr().err
    assert medssl(bundle, tmp_path, "--cache-dir", tmp_path / "c") == 2
    assert "datalist.json" in capsys.readouterr().err
    with pytest.raises(ConfigError, match=r"draws no episodes \(found medssl_monai.data.SeededCacheDataset, expected"):
        superpixels.stage_settings("srcl_skin_lesion_classification", {})
    (data / "datalist.json").write_text(json.dumps({"name": "d", "task": "segmentation", "labels": {"0": "b", "1": "l"},
                                                    "test": [{"image": "scan0.nii.gz"}]}))  # fmt: skip
    assert medssl(bundle, data, "--cache-dir", tmp_path / "c") == 2
    assert "there is no image in this split" in capsys.readouterr().err


def test_a_killed_process_is_told(bundle, data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(superpixels, "prepare_scan", _dies)
    assert medssl(bundle, data, "--cache-dir", tmp_path / "c", "--workers", 1) == 2
    assert "a process that prepared scans was killed, as systems do that run out of memory" in capsys.readouterr().err


def _dies(settings):
    os._exit(9)


def test_the_shipped_bundle_is_the_default(data, tmp_path):
    settings = superpixels.stage_settings(
        bundle_dir("cowpro_abdominal_segmentation"), {"dataset_dir": str(data), "cache_dir": str(tmp_path / "cache")}
    )
    assert settings["cache_dir"] == str(tmp_path / "cache")
    assert settings["image_size"] == 256
    assert [record["name"] for record in settings["data"]] == [f"scan{n}.nii.gz" for n in range(4)]
