"""What a bundle learns, as far as commands must know it."""

from __future__ import annotations

from pathlib import Path

from medssl_monai.core import ConfigError, bundle_dir, read_json

_SUFFIX = "_segmentation"


def segments(bundle: str | Path) -> bool:
    """Whether a bundle gives masks: its name ends so, or its metadata say so of the output ``pred``.

    Args:
        bundle: the bundle's folder or name.

    Raises:
        ConfigError: when there is no such bundle.
    """
    root = bundle_dir(bundle)
    path = root / "configs" / "metadata.json"
    if root.name.endswith(_SUFFIX) or not path.is_file():
        return root.name.endswith(_SUFFIX)
    formats = read_json(path).get("network_data_format") or {}
    return bool(((formats.get("outputs") or {}).get("pred") or {}).get("format") == "segmentation")


def refuse_masks(bundle: str | Path) -> None:
    """Refuse a bundle that gives masks, where embeddings or classes of whole images are asked for.

    Args:
        bundle: the bundle's folder or name.

    Raises:
        ConfigError: for a bundle that segments, or one that is not there.
    """
    if segments(bundle):
        name = bundle_dir(bundle).name
        raise ConfigError(
            "this bundle segments scans: it gives no embedding and no class of a whole image",
            where=name, expected="a bundle that classifies or embeds images",
            advice=f"`medssl run {name} inference` writes masks, volumes and confidences, `medssl supports` says "
            "which labelled scan serves best, `medssl study` whether pre-training helps.",
        )  # fmt: skip
