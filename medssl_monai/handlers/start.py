"""Whether a stage's images and network are those that the encoder it starts from was pre-trained with."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medssl_monai.core import CheckpointError
from medssl_monai.core.distributed import is_main
from medssl_monai.handlers.embeddings import encoder_settings

logger = logging.getLogger(__name__)

#: fine-tuning at another size than that of pre-training is sound, where it is meant
_MAY_DIFFER = ("image_size",)


def check_pretrained_settings(pretrained: str | Path | None, settings: Mapping[str, Any]) -> None:
    """Compare a stage's settings with those recorded beside a pre-trained encoder (``pretrain_encoder.json``).

    Another ``image_size`` is warned of: convolutions take any, but features of another scale are less apt, and mostly a
    key was forgotten. Every other difference is refused, because such weights do not fit.

    Args:
        pretrained: file of the encoder; ``None`` where there is none.
        settings: by key of the configuration; keys that are not recorded are not compared.

    Raises:
        CheckpointError: naming keys and both values.
    """
    if pretrained is None:
        return
    recorded = encoder_settings(pretrained)
    other = [key for key, value in settings.items() if key in recorded and recorded[key] != value]
    wrong = [key for key in other if key not in _MAY_DIFFER]
    if wrong:
        raise CheckpointError(
            "this encoder was pre-trained with other settings", where=pretrained,
            found=", ".join(f"{key}={settings[key]}" for key in wrong),
            expected=", ".join(f"{key}={recorded[key]}" for key in wrong),
            advice="Give these keys as in pre-training (stem and backbone may follow image_size: "
            f"{recorded.get('image_size')} there, {settings.get('image_size')} here), pre-train anew, or give "
            "pretrained=null to train from scratch.",
        )  # fmt: skip
    if other and is_main():
        for key in other:
            logger.warning(
                "%s is %s, but the encoder %s was pre-trained with %s: training goes on, its features are of another "
                "scale; give %s=%s where that is not meant", key, settings[key], pretrained, recorded[key], key,
                recorded[key],
            )  # fmt: skip
