"""Headers whose voxels lie in files beside them: MetaImage, NRRD and pairs of NIfTI."""

from __future__ import annotations

import re
from pathlib import Path

_HEAD = 1 << 16
_META, _NRRD = r"ElementDataFile\s*=", r"data ?file\s*:"
_FIELDS = {".mhd": _META, ".mha": _META, ".nhdr": _NRRD, ".nrrd": _NRRD}
_DETACHED = (".mhd", ".nhdr")


def data_field(path: Path) -> str | None:
    """What a header names as the file of its voxels.

    Returns:
        a name relative to the header's folder (or ``LIST``, or a pattern with ``%``); empty where a detached header
        names none; ``None`` where the voxels lie in the file itself.

    Raises:
        OSError: when the header cannot be read.
    """
    return _data_lines(path)[0]


def data_files(path: Path) -> list[Path]:
    """The files beside a header that hold its voxels, there or not; none for every other file.

    Args:
        path: any file; one that is missing or cannot be read has none.
    """
    try:
        field, following = _data_lines(path)
    except OSError:
        return []
    if not field:
        return []
    if field.split()[0].upper() == "LIST":
        return [path.parent / name for name in following]
    if "%" in field:
        stars = re.sub(r"%\d*d", "*", field.split()[0])
        return [] if Path(stars).is_absolute() or "**" in stars else sorted(path.parent.glob(stars))
    return [path.parent / field]


def _data_lines(path: Path) -> tuple[str | None, list[str]]:
    """The field's value, and the lines that follow it in the header."""
    suffix = path.suffix.lower()
    if suffix == ".hdr":
        return path.with_suffix(".IMG" if path.suffix.isupper() else ".img").name, []
    if suffix not in _FIELDS:
        return None, []
    with open(path, "rb") as stream:
        head = stream.read(_HEAD)
    if _FIELDS[suffix] == _NRRD:
        head = re.split(rb"\r?\n\r?\n", head, maxsplit=1)[0]  # the voxels follow an empty line
    text = head.decode(errors="surrogateescape")
    match = re.search(rf"^{_FIELDS[suffix]}[ \t]*(.*?)[ \t\r]*$", text, flags=re.MULTILINE | re.IGNORECASE)
    field = match[1] if match else ""
    if field.upper() == "LOCAL" or (not field and suffix not in _DETACHED):
        return None, []
    return field, [line.strip() for line in text[match.end() :].splitlines() if line.strip()] if match else []
