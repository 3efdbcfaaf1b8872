"""Where the bundles and overlays lie: beside the package in a checkout, inside it in an installed wheel."""

from __future__ import annotations

from pathlib import Path

from medssl_monai.core.errors import ConfigError, did_you_mean

_PACKAGE = Path(__file__).resolve().parents[1]


def share_dir(kind: str) -> Path:
    """Folder of ``kind`` (``"bundles"`` or ``"configs"``).

    Raises:
        ConfigError: when the installation lacks it.
    """
    for candidate in (_PACKAGE.parent / kind, _PACKAGE / "_share" / kind):
        if candidate.is_dir() and (kind != "bundles" or any(candidate.glob("*/configs/metadata.json"))):
            return candidate
    raise ConfigError(f"this installation carries no {kind}", advice="Install the medssl-monai wheel again.")


def bundle_dir(name_or_path: str | Path) -> Path:
    """A bundle's folder, by path or by the name of one that ships with the package.

    Raises:
        ConfigError: when neither a bundle folder nor a known name is given.
    """
    path = Path(name_or_path)
    if (path / "configs" / "metadata.json").is_file():
        return path.resolve()
    shipped = share_dir("bundles")
    if path.name == str(name_or_path) and (shipped / path.name).is_dir():
        return shipped / path.name
    raise ConfigError(
        f"no bundle {str(name_or_path)!r} (a folder with configs/metadata.json, or a name)",
        advice=did_you_mean(path.name, [p.name for p in shipped.iterdir() if p.is_dir()]),
    )


def overlay_path(name_or_path: str | Path) -> Path:
    """An overlay's file, by path or by the name of one that ships (``smoke``, ``cpu``, ``data/<dataset>``).

    Raises:
        ConfigError: when there is no such file or name.
    """
    path = Path(name_or_path)
    if path.is_file():
        return path.resolve()
    folder = share_dir("configs")
    shipped = folder / f"{name_or_path}.yaml"
    if shipped.is_file():
        return shipped
    known = [str(p.relative_to(folder).with_suffix("")) for p in folder.rglob("*.yaml")]
    raise ConfigError(f"no overlay {str(name_or_path)!r}", advice=did_you_mean(str(name_or_path), known))
