"""What a weight file says about itself, read without its data and without torch.

A safetensors file starts with a JSON table of its tensors. A .pth file is a zip archive whose `data.pkl` lists
the tensors; it is read by an unpickler that knows the few names such a list needs and refuses all others.
"""

from __future__ import annotations

import hashlib
import json
import math
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_MAX_HEADER_BYTES = 100 * 2**20  # the format's own limit
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"

# Bytes per element and the name of the type; first as safetensors writes it, then as torch names its storages.
_SAFETENSORS_TYPES = {
    "F64": ("float64", 8), "F32": ("float32", 4), "F16": ("float16", 2), "BF16": ("bfloat16", 2),
    "F8_E4M3": ("float8_e4m3", 1), "F8_E5M2": ("float8_e5m2", 1),
    "I64": ("int64", 8), "I32": ("int32", 4), "I16": ("int16", 2), "I8": ("int8", 1), "U8": ("uint8", 1),
    "BOOL": ("bool", 1),
}  # fmt: skip
_STORAGE_TYPES = {
    "DoubleStorage": ("float64", 8), "FloatStorage": ("float32", 4), "HalfStorage": ("float16", 2),
    "BFloat16Storage": ("bfloat16", 2), "LongStorage": ("int64", 8), "IntStorage": ("int32", 4),
    "ShortStorage": ("int16", 2), "CharStorage": ("int8", 1), "ByteStorage": ("uint8", 1), "BoolStorage": ("bool", 1),
}  # fmt: skip


class DamagedFile(Exception):
    """The file is not what its name says; the text completes "The file ..."."""


@dataclass(frozen=True, kw_only=True)
class TensorHeader:
    """One tensor of a weight file."""

    dtype: str  # as torch prints it, without "torch."
    shape: tuple[int, ...]
    num_bytes: int

    @property
    def num_elements(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)


Headers = Mapping[str, TensorHeader]


def read_headers(path: Path) -> Headers:
    """Return the tensors of a .safetensors, .pth or .bin file by name.

    Raises DamagedFile when it is truncated or something else, FileNotFoundError when it is not there.
    """
    if path.stat().st_size < 1024:
        with path.open("rb") as file:
            if file.read(len(_LFS_POINTER)) == _LFS_POINTER:
                raise DamagedFile("is only a Git LFS pointer: the data itself was never fetched")
    return _safetensors_headers(path) if path.suffix == ".safetensors" else _archive_headers(path)


def archive_fingerprint(path: Path) -> str:
    """Return a short name of a .pth file's content, from the check sums in its zip directory."""
    digest = hashlib.sha256()
    with _open_archive(path) as archive:
        for record in archive.infolist():
            digest.update(f"{record.filename}\0{record.CRC}\0{record.file_size}\n".encode())
    return digest.hexdigest()[:16]


def _safetensors_headers(path: Path) -> Headers:
    file_bytes = path.stat().st_size
    with path.open("rb") as file:
        header_bytes = int.from_bytes(file.read(8), "little")
        if not 2 <= header_bytes <= min(_MAX_HEADER_BYTES, max(file_bytes - 8, 0)):
            raise DamagedFile("is truncated or not a safetensors file")
        try:
            table = json.loads(file.read(header_bytes))
        except ValueError as error:
            raise DamagedFile("has an unreadable table of tensors") from error
    table.pop("__metadata__", None)
    headers, data_end = {}, 0
    for name, entry in table.items():
        dtype, _ = _SAFETENSORS_TYPES.get(entry["dtype"], (entry["dtype"], 0))
        start, end = entry["data_offsets"]
        headers[name] = TensorHeader(dtype=dtype, shape=tuple(entry["shape"]), num_bytes=end - start)
        data_end = max(data_end, end)
    _check_length(file_bytes, 8 + header_bytes + data_end)
    return headers


def _check_length(actual: int, expected: int) -> None:
    if actual < expected:
        missing = (expected - actual) / 1e6
        raise DamagedFile(f"is truncated: {missing:,.1f} MB of {expected / 1e6:,.1f} MB are missing")
    if actual > expected:
        raise DamagedFile(f"is {actual - expected} bytes longer than its table of tensors says")


def _open_archive(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        raise DamagedFile(
            "is truncated or not a PyTorch file (its directory, at the very end, is missing)"
        ) from error


def _archive_headers(path: Path) -> Headers:
    with _open_archive(path) as archive:
        sizes = {record.filename: record.file_size for record in archive.infolist()}
        listing = next((name for name in sizes if name.endswith("/data.pkl") or name == "data.pkl"), None)
        if listing is None:
            raise DamagedFile("is a zip archive, but not one that PyTorch wrote")
        with archive.open(listing) as stream:
            try:
                content = _TensorLister(stream).load()
            except (pickle.UnpicklingError, EOFError, KeyError, IndexError, TypeError, ValueError) as error:
                raise DamagedFile(f"has an unreadable list of tensors ({error})") from error
    if not isinstance(content, dict):
        raise DamagedFile("does not hold a table of tensors")
    folder = listing.removesuffix("data.pkl")
    headers = {}
    for name, entry in content.items():
        if not isinstance(entry, _ListedTensor):
            raise DamagedFile(f"holds something else than tensors at its top level (“{name}”)")
        dtype, item_bytes = _STORAGE_TYPES[entry.storage.kind]
        if sizes.get(f"{folder}data/{entry.storage.key}") != entry.storage.num_elements * item_bytes:
            raise DamagedFile(f"lacks the data of “{name}”")
        shape = tuple(entry.shape)
        headers[name] = TensorHeader(dtype=dtype, shape=shape, num_bytes=math.prod(shape) * item_bytes)
    return headers


@dataclass(frozen=True, kw_only=True)
class _Storage:
    kind: str
    key: str
    num_elements: int


@dataclass(frozen=True, kw_only=True)
class _ListedTensor:
    storage: _Storage
    shape: tuple[int, ...]


class _TensorLister(pickle.Unpickler):
    """Reads a torch pickle into `_ListedTensor`s; runs nothing that the file names."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _list_tensor
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return lambda tensor, *_: tensor
        if module == "torch" and name in _STORAGE_TYPES:
            return name
        raise pickle.UnpicklingError(f"it names {module}.{name}")

    def persistent_load(self, pid: Any) -> _Storage:
        _, kind, key, _, num_elements = pid
        return _Storage(kind=kind, key=key, num_elements=num_elements)


def _list_tensor(storage: _Storage, _offset: int, shape: tuple[int, ...], *_: object) -> _ListedTensor:
    return _ListedTensor(storage=storage, shape=tuple(shape))
