"""The prepared dataset's folder: whose it is, and files that are written whole, once, and never through links."""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from medssl_monai.core import DataError, OutputError, file_digest, make_folder, read_json, write_json
from medssl_monai.data.datalist import FILE_NAME, Datalist
from medssl_monai.data.prepare.layout import logger
from medssl_monai.data.prepare.source import Content

RECORD_NAME = "prepare.json"
_TEMPORARY = re.compile(r"\.medssl\.[0-9a-f]{8}\.tmp")
_ADVICE = "Name another OUT, or give --overwrite to replace it."


def check_apart(source: Path, out: Path) -> None:
    """Refuse an output folder that is, holds or lies in the source.

    Raises:
        OutputError: when they are not apart, or ``out`` is a file.
    """
    if out.is_file():
        raise OutputError("an output folder is needed here, but this is a file", where=out)
    resolved = out.resolve()
    if resolved == source:
        raise OutputError("OUT is SOURCE itself, which is never modified", where=out, advice="Name another OUT.")
    for inner, outer, words in ((resolved, source, "inside SOURCE"), (source, resolved, "around SOURCE")):
        if inner.is_relative_to(outer):
            raise OutputError(
                f"OUT lies {words}, which is never modified",
                where=out,
                found=f"SOURCE {source}",
                advice="Name an OUT that is apart from it.",
            )


class OutputFolder:
    """The folder a dataset is prepared into.

    ``prepare.json`` there records what is prepared (layout, source, options) from the first file on; ``datalist.json``
    is written last, so an interrupted run has the one without the other and the same call goes on where it stopped.

    Args:
        folder: the folder, made when needed.
        record: what is prepared, plain JSON values.
        link: make symbolic links to source files instead of copies.
        overwrite: replace what another preparation, or anybody else, has put there.
    """

    def __init__(self, folder: Path, record: Mapping[str, Any], *, link: bool, overwrite: bool) -> None:
        self.folder, self.record, self.link, self.overwrite = folder, dict(record), link, overwrite
        self._safe_parents: set[Path] = set()

    def write(self, files: Mapping[str, Content], datalist: Datalist, *, progress: bool) -> Path:
        """Write what is missing, then the datalist; files that are there already stay as they are.

        Raises:
            OutputError: when the folder holds something else and ``overwrite`` was not given, or cannot be written.
            DataError: when a source file cannot be read.
        """
        self._claim(files, datalist)
        path = self.folder / FILE_NAME
        for target, content in tqdm(files.items(), desc=datalist.name, unit="file", disable=None if progress else True):
            place = self.folder / target
            self._check_parent(place.parent)
            if not self._is_current(place, content):
                # A datalist must never name a file that is not whole.
                path.unlink(missing_ok=True)
                self._put(place, content)
        if not path.is_file():
            if hasattr(os, "sync"):
                os.sync()
            datalist.save(self.folder)
        return path

    def _claim(self, files: Mapping[str, Content], datalist: Datalist) -> None:
        """Find out whose the folder is, and make it ours; refuse (or clear the way) where it is somebody else's."""
        record, listed = self.folder / RECORD_NAME, self.folder / FILE_NAME
        ours = record.is_file() and _content(record) == self.record
        if not ours and (record.is_file() or listed.is_file()):
            self._refuse(f"holds another dataset ({self._difference(record)})")
        if ours and listed.is_file() and _content(listed) != datalist.to_json():
            self._refuse("holds this dataset as it was before SOURCE (or the software) changed; the datalists differ")
        if ours:
            self._sweep()
            return
        for target, content in {} if self.overwrite else files.items():
            place = self.folder / target
            if os.path.lexists(place) and not self._is_current(place, content):
                raise OutputError("is there already with other content", where=place, advice=_ADVICE)
        write_json(record, self.record)

    def _refuse(self, what: str) -> None:
        if not self.overwrite:
            raise OutputError(what, where=self.folder, advice=_ADVICE)
        logger.warning(
            "%s is overwritten; files of the earlier dataset that the new one does not name stay", self.folder
        )
        (self.folder / FILE_NAME).unlink(missing_ok=True)

    def _difference(self, record: Path) -> str:
        earlier = _content(record) if record.is_file() else None
        if not isinstance(earlier, dict):
            return f"a {FILE_NAME} that was not made by `medssl prepare`"
        before, now = _flat(earlier), _flat(self.record)
        changed = [key for key in {**before, **now} if before.get(key) != now.get(key)]
        return "; ".join(f"{key}: {before.get(key)!r} there, {now.get(key)!r} now" for key in changed)

    def _sweep(self) -> None:
        """Remove the temporary files of a run that was killed."""
        for folder, _, names in os.walk(self.folder):
            for name in filter(_TEMPORARY.fullmatch, names):
                Path(folder, name).unlink()

    def _check_parent(self, parent: Path) -> None:
        if parent in self._safe_parents:
            return
        make_folder(parent)
        if not parent.resolve().is_relative_to(self.folder.resolve()):
            raise OutputError(
                "is a symbolic link that leads out of OUT; nothing is written through it",
                where=parent,
                advice="Remove the link or name another OUT.",
            )
        self._safe_parents.add(parent)

    def _is_current(self, place: Path, content: Content) -> bool:
        if self.link and isinstance(content, Path):
            return place.is_symlink() and place.resolve() == content
        if place.is_symlink() or not place.is_file():
            return False
        if isinstance(content, Path):
            return place.stat().st_size == content.stat().st_size and file_digest(place) == file_digest(content)
        return place.read_bytes() == content()

    def _put(self, place: Path, content: Content) -> None:
        """Write one file beside its place, then move it there: it is whole or not there."""
        # core.atomic_path flushes every file to disk, which takes most of the time for thousands of small ones; here
        # one flush before the datalist gives the same promise.
        temporary = place.with_name(f".medssl.{secrets.token_hex(4)}.tmp")
        try:
            if self.link and isinstance(content, Path):
                temporary.symlink_to(os.path.relpath(content, place.parent.resolve()))
            elif isinstance(content, Path):
                shutil.copyfile(content, temporary)
            else:
                temporary.write_bytes(content())
            temporary.replace(place)
        except OSError as error:
            if isinstance(content, Path) and error.filename == str(content):
                raise DataError(f"cannot be read ({error.strerror})", where=content) from error
            raise OutputError(
                f"cannot be written ({error.strerror})", where=place, advice="The same command goes on from here."
            ) from error
        finally:
            temporary.unlink(missing_ok=True)


def _content(path: Path) -> Any:
    """Content of a JSON file; ``None`` for a damaged one, which is nobody's and may be overwritten."""
    try:
        return read_json(path)
    except DataError:
        return None


def _flat(record: Mapping[str, Any]) -> dict[str, Any]:
    options = record.get("options")
    rest = {key: value for key, value in record.items() if key != "options"}
    return {**rest, **(options if isinstance(options, dict) else {})}
