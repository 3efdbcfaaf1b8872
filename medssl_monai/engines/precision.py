"""Mixed precision by device: what the keys ``amp`` and ``amp_dtype`` mean for trainers and evaluators alike."""

from __future__ import annotations

import torch

from medssl_monai.core import ConfigError

AMP_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def autocast_dtype(amp: bool, amp_dtype: str = "bfloat16") -> torch.dtype | None:
    """Type that a network computes in under autocast, ``None`` for its own.

    Args:
        amp: whether there is to be autocast.
        amp_dtype: ``"bfloat16"`` or ``"float16"``.

    Raises:
        ConfigError: when ``amp_dtype`` is neither, also where ``amp`` is false.
    """
    if amp_dtype not in AMP_DTYPES:
        raise ConfigError("unknown precision", where="amp_dtype", found=amp_dtype, expected=" or ".join(AMP_DTYPES))
    return AMP_DTYPES[amp_dtype] if amp else None


def suitable_amp_dtype(device: torch.device | str) -> str:
    """``amp_dtype`` for a device: ``"bfloat16"``, but ``"float16"`` on GPUs that only emulate it.

    bfloat16 has the range of float32, so that nothing overflows and no gradient need be scaled.
    """
    device = torch.device(device)
    if device.type != "cuda" or not torch.cuda.is_available():
        return "bfloat16"
    with torch.cuda.device(device):
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
