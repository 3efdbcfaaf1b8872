"""From the names of published weights to MONAI's names of the same tensors."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import accumulate

LITE0_REPEATS = (1, 2, 2, 3, 3, 4, 1)
PREFIXES = ("module.", "pre.", "features.", "backbone.", "encoder.", "body.", "model.", "net.")

_DENSE_LAYER = re.compile(r"(.*denselayer\d+)\.(norm|conv)\.?([12])\.(\w+)")
_LITE_BLOCK = re.compile(r"_blocks\.(\d+)\.(?!\d+\.)(.+)")
_LITE_ENDS = tuple(accumulate(LITE0_REPEATS))


def keep_name(key: str) -> str:
    """ResNet: MONAI's names are torchvision's."""
    return key


def rename_densenet(key: str) -> str:
    """``denselayer1.norm1.X``, or ``denselayer1.norm.1.X`` of old files -> ``denselayer1.layers.norm1.X``."""
    match = _DENSE_LAYER.fullmatch(key)
    return f"{match[1]}.layers.{match[2]}{match[3]}.{match[4]}" if match else key


def rename_efficientnet_lite0(key: str) -> str:
    """``_blocks.4.X`` -> ``_blocks.2.4.X``: MONAI nests the blocks by stage and keeps their global number."""
    match = _LITE_BLOCK.fullmatch(key)
    if not match or int(match[1]) >= _LITE_ENDS[-1]:
        return key
    stage = next(stage for stage, end in enumerate(_LITE_ENDS) if int(match[1]) < end)
    return f"_blocks.{stage}.{match[1]}.{match[2]}"


def unprefixed(key: str) -> Iterator[str]:
    """The key, and what is left of it as the prefixes that wrappers add are taken off one by one."""
    yield key
    while prefix := next((prefix for prefix in PREFIXES if key.startswith(prefix)), None):
        key = key.removeprefix(prefix)
        yield key
