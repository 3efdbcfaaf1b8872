"""A stage's settings against those of the encoder it starts from."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from monai.bundle import ConfigParser

from medssl_monai.apps.run import resolve_config
from medssl_monai.core import CheckpointError, file_digest, write_json
from medssl_monai.handlers import check_pretrained_settings

RECORDED = {"image_size": 28, "in_channels": 3, "backbone": "resnet18", "width": 0.125, "stem": "cifar"}


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    path = tmp_path / "pretrain.pt"
    path.write_bytes(b"weights")
    description = {"weights": path.name, "weights_sha256": file_digest(path), "settings": RECORDED}
    write_json(tmp_path / "pretrain_encoder.json", description)
    return path


def warned(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def test_the_same_settings_are_in_order(encoder: Path, caplog: pytest.LogCaptureFixture) -> None:
    check_pretrained_settings(encoder, RECORDED)
    check_pretrained_settings(None, {**RECORDED, "width": 1.0})
    check_pretrained_settings(encoder, {**RECORDED, "another": 1})
    check_pretrained_settings(encoder.with_name("not_there.pt"), {"width": 1.0})  # which loading tells better
    assert warned(caplog) == []


def test_another_size_is_warned_of(encoder: Path, caplog: pytest.LogCaptureFixture) -> None:
    check_pretrained_settings(encoder, {**RECORDED, "image_size": 32})
    (text,) = warned(caplog)
    assert text.startswith(f"image_size is 32, but the encoder {encoder} was pre-trained with 28: training goes on")
    assert "give image_size=28 where that is not meant" in text


@pytest.mark.parametrize(
    ("key", "value"), [("in_channels", 1), ("backbone", "resnet50"), ("width", 1.0), ("stem", "imagenet")]
)
def test_another_network_is_refused_by_its_key(encoder: Path, key: str, value: Any) -> None:
    message = rf"with other settings \(found {key}={value}, expected {key}={RECORDED[key]}\)\. Give these keys as in"
    with pytest.raises(CheckpointError, match=message):
        check_pretrained_settings(encoder, {**RECORDED, key: value, "image_size": 32})


@pytest.mark.parametrize(
    ("bundle", "keys"),
    [
        ("contrastive_image_classification", ("in_channels", "backbone", "width", "stem")),
        ("contrastive_knee_mri_classification", ("in_channels", "backbone", "width")),
    ],
)
def test_train_stages_compare_before_the_weights_are_loaded(
    bundle: str, keys: tuple[str, ...], encoder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own = {key: value for key, value in RECORDED.items() if key in (*keys, "image_size")}
    given = {**own, "pretrained": str(encoder), "image_size": 32}
    config, _ = resolve_config(bundle, "train", given)
    ConfigParser(config).get_parsed_content("as_pretrained")
    assert any(text.startswith("image_size is 32, but the encoder") for text in warned(caplog))
    for key in keys:
        other = {"in_channels": 1, "backbone": "resnet50", "width": 1.0, "stem": "imagenet"}[key]
        config, _ = resolve_config(bundle, "train", {**given, key: other})
        with pytest.raises(RuntimeError) as raised:
            ConfigParser(config).get_parsed_content("as_pretrained")
        assert f"found {key}={other}, expected {key}={RECORDED[key]}" in str(raised.value.__cause__ or raised.value)
    order = config["initialize"]
    assert order.index("$@as_pretrained") < order.index("$@lr_scheduler")
