"""The growing video of a job: an append-only file that any number of readers follow from any offset."""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import dataclass
from pathlib import Path

_MAX_SLICE_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class MediaSlice:
    """Some bytes of the video. `ended` says that nothing will ever follow them."""

    data: bytes
    next_offset: int
    ended: bool


class MediaLog:
    """One job's fragmented MP4 while it is made. One writer, many readers."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab", buffering=0)
        self._path = path
        self._size = path.stat().st_size
        self._ended = False
        self._changed = threading.Condition()

    def append(self, data: bytes) -> None:
        """Add bytes, all or none. Raises OSError when the disk is full; what was written before stays."""
        try:
            written = 0
            while written < len(data):
                written += self._file.write(data[written:])
        except OSError:
            with contextlib.suppress(OSError):
                self._file.truncate(self._size)
            raise
        with self._changed:
            self._size += len(data)
            self._changed.notify_all()

    def end(self) -> None:
        """Say that nothing follows. May be called twice."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()
        self._file.close()

    def read(self, offset: int, *, wait_s: float) -> MediaSlice:
        """Return what follows `offset`, waiting up to `wait_s` for it. ValueError for an offset past the end."""
        deadline = time.monotonic() + wait_s
        with self._changed:
            while self._size <= offset and not self._ended:
                if not self._changed.wait(max(0.0, deadline - time.monotonic())):
                    break
            size, ended = self._size, self._ended
        return read_slice(self._path, offset, size=size, ended=ended)


def read_slice(path: Path, offset: int, *, size: int, ended: bool) -> MediaSlice:
    """Return up to 4 MiB from `offset` of a log of `size` bytes. ValueError for an offset outside of it."""
    if not 0 <= offset <= size:
        raise ValueError(f"offset {offset} is outside the {size} bytes made so far")
    with path.open("rb") as file:
        file.seek(offset)
        data = file.read(min(size - offset, _MAX_SLICE_BYTES))
    next_offset = offset + len(data)
    return MediaSlice(data=data, next_offset=next_offset, ended=ended and next_offset == size)
