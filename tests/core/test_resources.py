"""Bundles and overlays are found by name and by path, in a checkout and in an installation."""

from __future__ import annotations

from pathlib import Path

import pytest

from medssl_monai.core import ConfigError, bundle_dir, overlay_path, resources, share_dir

NAME = "srcl_skin_lesion_classification"


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package that lies alone in site-packages and carries its resources inside."""
    package = tmp_path / "site-packages" / "medssl_monai"
    (package / "_share" / "bundles" / "x_classification" / "configs").mkdir(parents=True)
    (package / "_share" / "bundles" / "x_classification" / "configs" / "metadata.json").write_text("{}")
    (package / "_share" / "configs" / "data").mkdir(parents=True)
    (package / "_share" / "configs" / "data" / "ham.yaml").write_text("")
    monkeypatch.setattr(resources, "_PACKAGE", package)
    return package


def test_shipped_bundles_and_overlays_are_found_by_name() -> None:
    assert (bundle_dir(NAME) / "configs" / "metadata.json").is_file()
    assert bundle_dir(share_dir("bundles") / NAME) == bundle_dir(NAME).resolve()
    assert overlay_path("smoke") == share_dir("configs") / "smoke.yaml"


def test_an_installation_carries_them_inside(installed: Path) -> None:
    assert share_dir("bundles") == installed / "_share" / "bundles"
    assert bundle_dir("x_classification") == installed / "_share" / "bundles" / "x_classification"
    assert overlay_path("data/ham") == installed / "_share" / "configs" / "data" / "ham.yaml"
    # somebody else's folder named bundles beside the package is not ours
    (installed.parent / "bundles" / "foreign").mkdir(parents=True)
    assert share_dir("bundles") == installed / "_share" / "bundles"


def test_paths_go_before_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / NAME
    (own / "configs").mkdir(parents=True)
    (own / "configs" / "metadata.json").write_text("{}")
    (tmp_path / "mine.yaml").write_text("seed: 1")
    monkeypatch.chdir(tmp_path)
    assert bundle_dir(NAME) == own
    assert bundle_dir(f"{NAME}/") == own
    assert overlay_path("mine.yaml") == tmp_path / "mine.yaml"


def test_unknown_names_are_met_with_suggestions(installed: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no bundle 'x_clasification' \(.*\)\. Did you mean 'x_classification'\?"):
        bundle_dir("x_clasification")
    with pytest.raises(
        ConfigError, match=r"no bundle '.*empty' \(a folder with configs/metadata.json, or a name\)\. Kn"
    ):
        bundle_dir(tmp_path / "empty")
    with pytest.raises(ConfigError, match=r"no overlay 'data/han'\. Did you mean 'data/ham'\?"):
        overlay_path("data/han")


def test_an_installation_without_resources(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(resources, "_PACKAGE", tmp_path / "a" / "b")
    with pytest.raises(
        ConfigError, match=r"this installation carries no configs\. Install the medssl-monai wheel again"
    ):
        overlay_path("smoke")
