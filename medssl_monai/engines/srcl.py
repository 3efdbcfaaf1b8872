"""The regimes of the SRCL bundle: which terms are weighted, whether there is a teacher and a pre-trained encoder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from medssl_monai.core import ConfigError, did_you_mean


@dataclass(frozen=True)
class Regime:
    """One arm.

    Attributes:
        weights: weights of the trainer's terms.
        needs_pretrained: whether the encoder must come from the pretrain stage.
    """

    weights: dict[str, float]
    needs_pretrained: bool = False

    @property
    def uses_teacher(self) -> bool:
        """Whether student and teacher are compared."""
        return bool({"consistency", "relation"} & self.weights.keys())

    @property
    def uses_unlabeled(self) -> bool:
        """Whether images without label are drawn."""
        return self.weights.keys() != {"supervised"}


_SRC = {"supervised": 1.0, "consistency": 1.0, "relation": 1.0}

REGIMES = {
    "supervised": Regime({"supervised": 1.0}),
    "mean_teacher": Regime({"supervised": 1.0, "consistency": 1.0}),
    "src": Regime(_SRC),
    "srcl": Regime(_SRC, needs_pretrained=True),
    "srcl_joint": Regime({**_SRC, "supcon": 1.0}),
}


def srcl_regime(name: str, pretrained: str | Path | None = None, export: str = "student") -> Regime:
    """The regime of a name, with what it needs.

    Args:
        name: ``supervised``, ``mean_teacher``, ``src``, ``srcl`` or ``srcl_joint``.
        pretrained: file of the pre-trained encoder, ``None`` where there is none.
        export: which network is served, ``student`` or ``teacher``.

    Raises:
        ConfigError: when a name is unknown, ``srcl`` has no pre-trained encoder, or a teacher is to be served that the
            regime does not have.
    """
    if name not in REGIMES:
        raise ConfigError(f"unknown regime {name!r}", where="regime", advice=did_you_mean(name, REGIMES))
    regime = REGIMES[name]
    if export not in ("student", "teacher"):
        advice = did_you_mean(export, ("student", "teacher"))
        raise ConfigError(f"unknown network {export!r}", where="export", advice=advice)
    if export == "teacher" and not regime.uses_teacher:
        raise ConfigError(f"regime {name!r} has no teacher", where="export", found=export, expected="student")
    if regime.needs_pretrained and (pretrained is None or not Path(pretrained).is_file()):
        raise ConfigError(
            f"regime {name!r} starts from a pre-trained encoder", where="pretrained",
            found="null" if pretrained is None else f"no file {pretrained}",
            expected="the encoder written by the pretrain stage",
            advice="Run the pretrain stage with the same ckpt_dir first (`medssl run ... pretrain ... --run-dir RUN`), "
            "or give its file: pretrained=.../pretrain.pt.",
        )  # fmt: skip
    return regime
