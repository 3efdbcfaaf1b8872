"""The arms of the SRCL bundle and what they need."""

from __future__ import annotations

from pathlib import Path

import pytest

from medssl_monai.core import ConfigError
from medssl_monai.engines import REGIMES, MeanTeacherTrainer, srcl_regime


@pytest.mark.parametrize(
    ("name", "terms", "teacher", "unlabeled"),
    [
        ("supervised", {"supervised"}, False, False),
        ("mean_teacher", {"supervised", "consistency"}, True, True),
        ("src", {"supervised", "consistency", "relation"}, True, True),
        ("srcl", {"supervised", "consistency", "relation"}, True, True),
        ("srcl_joint", {"supervised", "consistency", "relation", "supcon"}, True, True),
    ],
)
def test_terms_of_each_regime(name: str, terms: set[str], teacher: bool, unlabeled: bool, tmp_path: Path) -> None:
    pretrained = tmp_path / "pretrain.pt"
    pretrained.write_bytes(b"")
    regime = srcl_regime(name, pretrained)
    assert regime.weights == dict.fromkeys(terms, 1.0)
    assert terms <= set(MeanTeacherTrainer.terms)
    assert (regime.uses_teacher, regime.uses_unlabeled) == (teacher, unlabeled)
    assert regime.needs_pretrained == (name == "srcl")
    if name != "srcl":
        assert srcl_regime(name) == regime
    assert set(REGIMES) == {"supervised", "mean_teacher", "src", "srcl", "srcl_joint"}


def test_srcl_names_the_command_that_makes_its_encoder(tmp_path: Path) -> None:
    command = r"Run the pretrain stage with the same ckpt_dir first \(`medssl run "
    with pytest.raises(
        ConfigError, match=rf"^pretrained: regime 'srcl' starts from .*\(found null, expected.*{command}"
    ):
        srcl_regime("srcl")
    with pytest.raises(
        ConfigError, match=r"\(found no file .*gone\.pt, expected the encoder written by the pretrain stag"
    ):
        srcl_regime("srcl", tmp_path / "gone.pt")


def test_unknown_regime() -> None:
    with pytest.raises(ConfigError, match=r"^regime: unknown regime 'srcl-joint'\. Did you mean 'srcl_joint'\?$"):
        srcl_regime("srcl-joint")


def test_what_is_served_is_checked() -> None:
    assert srcl_regime("src", export="teacher").uses_teacher
    with pytest.raises(ConfigError, match=r"^export: unknown network 'techer'\. Did you mean 'teacher'\?$"):
        srcl_regime("src", export="techer")
    with pytest.raises(
        ConfigError, match=r"^export: regime 'supervised' has no teacher \(found teacher, expected student\)"
    ):
        srcl_regime("supervised", export="teacher")
