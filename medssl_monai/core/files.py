"""Files that are whole or not there: atomic writing, output folders, JSON."""

from __future__ import annotations

import errno
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from medssl_monai.core.errors import DataError, MedSSLError, OutputError

#: end of the names of files that are being written
TEMPORARY = ".part.tmp"
#: a full disk, a quota, a limit of file size, a disk that fails
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


@contextmanager
def atomic_path(target: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``target``; on success it is flushed to disk and moved over ``target``.

    On any exception the temporary file is removed and an existing ``target`` stays as it was.

    Raises:
        OutputError: when the folder cannot be made or written, ``target`` is a folder, or the disk is full.
    """
    target = Path(target)
    make_folder(target.parent)
    if target.is_dir():
        raise OutputError("a file is to be written here, but this is a folder", where=target)
    try:
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=TEMPORARY, dir=target.parent)
    except OSError as error:
        raise OutputError(f"cannot be written ({error.strerror})", where=target) from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "rb") as stream:
            os.fsync(stream.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp makes private files; the result is an ordinary one
        temporary.replace(target)
        _flush_folder(target.parent)
    except OSError as error:
        if isinstance(error, MedSSLError) or error.errno not in _FULL:
            raise
        free = shutil.disk_usage(target.parent).free / 2**20
        raise OutputError(
            f"cannot be written ({error.strerror}; {free:.0f} MiB are free there)", where=target,
            advice="Free some space or raise the limit. What was there before is untouched.",
        ) from error  # fmt: skip
    finally:
        temporary.unlink(missing_ok=True)


def _flush_folder(folder: Path) -> None:
    """Make a renaming last through a loss of power, where the system lets a folder be flushed."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def make_folder(path: str | Path) -> Path:
    """Make a folder and its parents.

    Raises:
        OutputError: when the path, or a part of it, is a file, or the folder cannot be made.
    """
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        blocking = next((p for p in [path, *path.parents] if p.is_file()), path)
        raise OutputError(
            "an output folder is needed here, but this is a file",
            where=blocking,
            advice="Name another folder or move the file away.",
        ) from error
    except OSError as error:
        raise OutputError(f"the folder cannot be made ({error.strerror})", where=path) from error
    return path


def write_text(path: str | Path, text: str) -> None:
    """Write a UTF-8 text file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, content: Any) -> None:
    """Write indented JSON atomically; not-a-number is refused, because JSON has no word for it."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: str | Path) -> Any:
    """Read a JSON file.

    Raises:
        DataError: when the file is missing or is not JSON (with line and column).
    """
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError("file not found", where=path) from error
    except json.JSONDecodeError as error:
        raise DataError(
            f"not valid JSON: {error.msg} at line {error.lineno}, column {error.colno}", where=path
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot be read ({error})", where=path) from error


class FolderLock:
    """Keeps a second run out of a folder while the first one lives; the system frees it when a process is killed.

    Args:
        folder: the folder; the lock is its file ``.lock``, which stays there.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._lock = FileLock(self.folder / ".lock")

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            OutputError: when another run holds it, or the folder cannot be written.
        """
        make_folder(self.folder)
        path = Path(self._lock.lock_file)
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            holder = path.read_text(encoding="utf-8", errors="replace").strip()
            raise OutputError(
                "another run is writing in this folder", where=self.folder, found=holder or None,
                advice="Wait for it, stop it, or name another folder.",
            ) from None  # fmt: skip
        except OSError as error:
            raise OutputError(f"cannot be locked ({error.strerror})", where=self.folder) from error
        started = datetime.now().astimezone().isoformat(timespec="seconds")
        path.write_text(f"process {os.getpid()} on {platform.node()} since {started}\n", encoding="utf-8")

    def release(self) -> None:
        """Give the lock back; without effect where it is not held."""
        self._lock.release()
