"""One prepared item a file, uncompressed, so that a part of it is read by mapping the file into memory.

A file is a head (magic, length and SHA-256 of the description), the description as JSON, and the arrays, each at a
multiple of 64 bytes. Nothing in it is executed when it is read.
"""

from __future__ import annotations

import hashlib
import json
import math
import mmap
import os
import struct
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor

from medssl_monai.core import OutputError, atomic_path

_MAGIC = b"medssl volume 1\n"
_HEAD = struct.Struct(f"<{len(_MAGIC)}sQ32s")
_ALIGNMENT = 64
#: metadata kept with an image: its grid. Names of files and patients are not.
GRID_KEYS = ("affine", "original_affine", "spatial_shape", "original_channel_dim", "space")
_Node = dict[str, Any]


class StoredValueError(TypeError):
    """An item holds a value that such a file cannot keep."""


class DamagedFileError(ValueError):
    """A file is not what was written."""


@dataclass(frozen=True)
class Description:
    """What a file holds: structure of the item, and where each array stands.

    Attributes:
        tree: the item's structure.
        start: offset of the first array.
        size: size of the whole file in bytes.
        digest: SHA-256 of everything from ``start`` on.
    """

    tree: _Node
    start: int
    size: int
    digest: str


class _Writer:
    """Collects the arrays of an item while its structure is described."""

    def __init__(self, record: Mapping[str, Any], track_meta: bool) -> None:
        self.record, self.track_meta = record, track_meta
        self.arrays: list[tuple[int, np.ndarray]] = []
        self.end = 0

    def item(self, item: Any) -> _Node:
        """The item's structure; what it took over from its record is not written (it may be a name)."""
        if not isinstance(item, Mapping):
            return self.node(item, "item")
        kept = {key: self._taken_over(key, value) or self.node(value, str(key)) for key, value in item.items()}
        return {"kind": "dict", "entries": _entries(kept)}

    def _taken_over(self, key: Any, value: Any) -> _Node | None:
        own = self.record.get(key)
        return {"kind": "record"} if own is not None and (value is own or _same(value, own)) else None

    def node(self, value: Any, path: str) -> _Node:
        if isinstance(value, torch.Tensor):
            return self._tensor(value, path)
        if isinstance(value, (np.ndarray, np.generic)):
            return self._array(np.asarray(value), "scalar" if isinstance(value, np.generic) else "array", path)
        if isinstance(value, Mapping):
            return {"kind": "dict", "entries": _entries({k: self.node(v, f"{path}.{k}") for k, v in value.items()})}
        if isinstance(value, (list, tuple)):
            kind = "list" if isinstance(value, list) else "tuple"
            return {"kind": kind, "entries": [self.node(v, f"{path}[{i}]") for i, v in enumerate(value)]}
        if isinstance(value, Enum) and isinstance(value, str):
            return {"kind": "value", "value": str(value.value)}
        if value is None or type(value) in (bool, int, float, str):
            return {"kind": "value", "value": value}
        raise StoredValueError(f"{path} is a {type(value).__name__}")

    def _tensor(self, tensor: torch.Tensor, path: str) -> _Node:
        plain = tensor.as_tensor() if isinstance(tensor, MetaTensor) else tensor
        if plain.layout != torch.strided or plain.is_quantized:
            raise StoredValueError(f"{path} is a tensor of layout {plain.layout}")
        plain = plain.detach().cpu().contiguous()
        raw = plain.reshape(-1).view(torch.uint8).numpy() if plain.numel() else np.empty(0, np.uint8)
        node: _Node = {"kind": "tensor", "dtype": str(plain.dtype).removeprefix("torch."), "shape": list(plain.shape)}
        node["offset"] = self._place(raw)
        if self.track_meta and isinstance(tensor, MetaTensor):
            meta = {key: tensor.meta[key] for key in GRID_KEYS if key in tensor.meta}
            node["meta"] = self.node(meta, f"{path}.meta")
        return node

    def _array(self, array: np.ndarray, kind: str, path: str) -> _Node:
        if array.dtype.hasobject or array.dtype.fields is not None:
            raise StoredValueError(f"{path} is an array of {array.dtype}")
        array = np.asarray(array, order="C")
        return {"kind": kind, "dtype": array.dtype.str, "shape": list(array.shape), "offset": self._place(array)}

    def _place(self, array: np.ndarray) -> int:
        offset = -(-self.end // _ALIGNMENT) * _ALIGNMENT
        self.arrays.append((offset, array.reshape(-1).view(np.uint8) if array.size else np.empty(0, np.uint8)))
        self.end = offset + array.nbytes
        return offset


def write_item(path: str | Path, item: Any, record: Mapping[str, Any], track_meta: bool = False) -> None:
    """Write a prepared item; the file appears whole or not at all, also when several processes write it.

    Args:
        path: where to.
        item: dictionary (or list of dictionaries) of tensors, arrays, plain values, and lists and mappings of them.
        record: the data dictionary the item was made of. Entries of the item that are equal to the record's are left
            out and taken from the record again when the file is read.
        track_meta: keep the grid (affine) of a ``MetaTensor``; otherwise it is read again as a plain tensor.

    Raises:
        StoredValueError: for a value of another kind; the message names its place in the item.
        OutputError: when the file cannot be written (disk full, no permission).
    """
    writer = _Writer(record, track_meta)
    tree = writer.item(item)
    digest, position = hashlib.sha256(), 0
    for offset, array in writer.arrays:
        digest.update(bytes(offset - position))
        digest.update(array.data)
        position = offset + array.nbytes
    text = json.dumps({"tree": tree, "payload": writer.end, "digest": digest.hexdigest()}).encode()
    start = -(-(_HEAD.size + len(text)) // _ALIGNMENT) * _ALIGNMENT
    try:
        with atomic_path(path) as temporary, open(temporary, "wb") as stream:
            stream.write(_HEAD.pack(_MAGIC, len(text), hashlib.sha256(text).digest()))
            stream.write(text)
            for offset, array in writer.arrays:
                stream.write(bytes(start + offset - stream.tell()))
                stream.write(array.data)
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(
            f"prepared images cannot be kept here ({error.strerror})", where=Path(path).parent,
            advice="Free space on this disk, or name another cache_dir.",
        ) from error  # fmt: skip


def read_description(path: str | Path, verify: bool = False) -> Description:
    """Structure of a written file.

    Args:
        path: the file.
        verify: read the whole file and compare its digest; otherwise only its description and its size are checked.

    Raises:
        FileNotFoundError: when there is none.
        DamagedFileError: when it is not as it was written.
    """
    with open(path, "rb") as stream:
        head = stream.read(_HEAD.size)
        if len(head) < _HEAD.size:
            raise DamagedFileError("it is cut short")
        magic, length, expected = _HEAD.unpack(head)
        if magic != _MAGIC:
            raise DamagedFileError("it is of another format")
        size = os.fstat(stream.fileno()).st_size
        text = stream.read(length) if length <= size else b""
        if hashlib.sha256(text).digest() != expected:
            raise DamagedFileError("its description is damaged")
        content = json.loads(text)
        start = -(-(_HEAD.size + length) // _ALIGNMENT) * _ALIGNMENT
        description = Description(content["tree"], start, start + content["payload"], content["digest"])
        # a file without arrays ends with its description
        if size != description.size and not (content["payload"] == 0 and size == _HEAD.size + length):
            raise DamagedFileError(f"it has {size} bytes, expected {description.size}")
        if verify:
            stream.seek(start)
            if hashlib.file_digest(stream, "sha256").hexdigest() != description.digest:
                raise DamagedFileError("its content is damaged")
    return description


class MappedItem:
    """An item whose arrays are the file itself, mapped into memory: bytes are read when they are looked at.

    The mapping is private: a transform that works in place changes this item only, neither the file nor what others
    see. Processes that map one file share its pages.

    Args:
        path: the file.
        description: what :func:`read_description` gave for it.
        record: the item's data dictionary, for the entries that were not written.

    Raises:
        FileNotFoundError: when the file is gone.
        DamagedFileError: when its size has changed.
    """

    def __init__(self, path: str | Path, description: Description, record: Mapping[str, Any]) -> None:
        self._record, self._start = record, description.start
        self._buffer: mmap.mmap | None = None
        self._low = self._high = 0
        handle = os.open(path, os.O_RDONLY)
        try:
            size = os.fstat(handle).st_size
            if description.size > description.start:
                if size != description.size:
                    raise DamagedFileError(f"it has {size} bytes, expected {description.size}")
                self._buffer = mmap.mmap(handle, size, access=mmap.ACCESS_COPY)
                self._low = torch.frombuffer(self._buffer, dtype=torch.uint8, count=1).data_ptr()
                self._high = self._low + size
        finally:
            os.close(handle)
        self.item: Any = self._value(description.tree, None)

    def owned(self, value: Any) -> Any:
        """``value`` with every array that still lies in the file copied, so that only the bytes in use are kept."""
        if isinstance(value, torch.Tensor):
            return value.clone() if self._low <= value.data_ptr() < self._high else value
        if isinstance(value, np.ndarray):
            address = value.__array_interface__["data"][0]
            return value.copy() if self._low <= address < self._high else value
        if isinstance(value, dict):
            return {key: self.owned(entry) for key, entry in value.items()}
        return type(value)(map(self.owned, value)) if type(value) in (list, tuple) else value

    def _value(self, node: _Node, key: Any) -> Any:
        return _READERS[node["kind"]](self, node, key)

    def _read_tensor(self, node: _Node, _: Any) -> torch.Tensor:
        shape, dtype = node["shape"], getattr(torch, node["dtype"])
        count = math.prod(shape)
        if count:
            assert self._buffer is not None  # noqa: S101  (a file with elements has a payload)
            tensor = torch.frombuffer(
                self._buffer, dtype=dtype, count=count, offset=self._start + node["offset"]
            ).reshape(shape)
        else:
            tensor = torch.empty(shape, dtype=dtype)
        if "meta" not in node:
            return tensor
        meta = self.owned(self._value(node["meta"], None))
        return MetaTensor(tensor, meta=meta)

    def _read_array(self, node: _Node, _: Any) -> np.ndarray:
        count = math.prod(node["shape"])
        if not count:
            return np.empty(node["shape"], np.dtype(node["dtype"]))
        assert self._buffer is not None  # noqa: S101  (a file with elements has a payload)
        flat = np.frombuffer(self._buffer, np.dtype(node["dtype"]), count, self._start + node["offset"])
        return flat.reshape(node["shape"])

    def _read_dict(self, node: _Node, _: Any) -> dict[Any, Any]:
        return {key: self._value(entry, key) for key, entry in node["entries"]}


_READERS: dict[str, Callable[[MappedItem, _Node, Any], Any]] = {
    "tensor": MappedItem._read_tensor,
    "array": MappedItem._read_array,
    "scalar": lambda mapped, node, key: mapped._read_array(node, key)[()],
    "dict": MappedItem._read_dict,
    "list": lambda mapped, node, _: [mapped._value(entry, None) for entry in node["entries"]],
    "tuple": lambda mapped, node, _: tuple(mapped._value(entry, None) for entry in node["entries"]),
    "value": lambda _, node, __: node["value"],
    # a transform that works in place must leave the record as it is
    "record": lambda mapped, _, key: deepcopy(mapped._record[key]),
}


def _entries(nodes: Mapping[Any, _Node]) -> list[tuple[str | int, _Node]]:
    for key in nodes:
        if type(key) not in (str, int):
            raise StoredValueError(f"the key {key!r} is a {type(key).__name__}")
    return list(nodes.items())


def _same(a: Any, b: Any) -> bool:
    """Whether two plain values are equal and of one type, so that one can stand for the other."""
    return type(a) is type(b) and isinstance(a, (bool, int, float, str, Path)) and a == b
