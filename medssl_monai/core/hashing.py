"""Hashes: case names that leave the user's folders become keyed hashes; files and data get fingerprints."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import secrets
import tempfile
from collections.abc import Iterable
from pathlib import Path

KEY_VARIABLE = "MEDSSL_HASH_KEY"
_KEY_FILE = Path("~/.config/medssl/hash_key")


def hash_key() -> bytes:
    """The user's secret key: environment variable ``MEDSSL_HASH_KEY``, else a file made once in the user's home.

    Where the home cannot be written a key that lives as long as the process is used, so that no name ever leaves in
    clear; hashes of two runs cannot be joined then.
    """
    value = os.environ.get(KEY_VARIABLE)
    if value:
        return value.encode()
    path = _KEY_FILE.expanduser()
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            # A link to a whole file appears at once and never replaces: of two runs that start together one makes the
            # key, the other reads it.
            with tempfile.NamedTemporaryFile("w", dir=path.parent) as stream:
                stream.write(secrets.token_hex(32))
                stream.flush()
                with contextlib.suppress(FileExistsError):
                    os.link(stream.name, path)
        key = path.read_text().strip()
    except OSError:
        key = ""
    if not key:
        # not setdefault: a variable that is there but empty would leave the hashes without a key
        key = os.environ[KEY_VARIABLE] = secrets.token_hex(32)
    return key.encode()


def hash_case(name: str, key: bytes | None = None) -> str:
    """Twelve hexadecimal digits of HMAC-SHA256 of a case name under the user's key."""
    return hmac.new(hash_key() if key is None else key, name.encode(), hashlib.sha256).hexdigest()[:12]


def file_digest(path: str | Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sampled_digest(path: str | Path, edge: int = 1 << 16) -> str:
    """What tells whether an image has been replaced, in a fraction of a millisecond: SHA-256 of size and both ends.

    A folder (a DICOM series) counts by the names and digests of its files; what is missing counts as missing. A change
    that keeps a file's size and its first and last ``edge`` bytes is not seen.

    Args:
        path: file or folder.
        edge: bytes read at either end.
    """
    path = Path(path)
    if path.is_dir():
        files = sorted(entry for entry in path.rglob("*") if entry.is_file())
        return text_digest(part for file in files for part in (str(file.relative_to(path)), sampled_digest(file, edge)))
    if not path.is_file():
        return "missing"
    with open(path, "rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        digest = hashlib.sha256(f"{size}:".encode() + stream.read(edge))
        stream.seek(max(size - edge, 0))
        digest.update(stream.read(edge))
    return digest.hexdigest()


def source_digest(source: str | Path | None) -> str | None:
    """What tells one source of weights from another: a file's SHA-256, any other text (URL, package) itself."""
    if source is None:
        return None
    return file_digest(source) if Path(source).is_file() else str(source)


def text_digest(parts: Iterable[str]) -> str:
    """SHA-256 over a sequence of texts, hexadecimal; the boundaries between them count."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode()
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()
