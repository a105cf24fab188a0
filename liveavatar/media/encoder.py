"""One continuous H.264 + AAC encoder per job, whose fragmented MP4 can be played while it grows."""

from __future__ import annotations

import io
from collections.abc import Iterable
from fractions import Fraction
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from liveavatar.core.request import AUDIO_RATE
from liveavatar.media.made import Made

_FRAGMENT_US = 240_000  # six frames; the measured compromise between start-up time and stalls in a browser

_SETTLING_SAMPLES = 2048  # that AAC needs to know of before those that are kept

# No B-frames and a look-ahead of two frames: a block of 12 gives a fragment of six at once. None at all, as with
# `tune=zerolatency`, needs nearly twice the bytes. Threads are slices of a frame here; more of them cost bytes.
_X264_OPTIONS = {
    "preset": "veryfast",
    "crf": "20",
    "profile": "main",
    "bf": "0",
    "x264-params": "rc-lookahead=2:sync-lookahead=0:threads=2",
}


class _ByteQueue(io.RawIOBase):
    """What the muxer writes into; `take` empties it."""

    def __init__(self) -> None:
        super().__init__()
        self._bytes = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._bytes += data
        return len(data)

    def take(self) -> bytes:
        taken = bytes(self._bytes)
        self._bytes.clear()
        return taken


class StreamEncoder:
    """Turns frames and their sound into the bytes of one growing MP4 file, at a constant frame rate."""

    def __init__(self, width: int, height: int, *, fps: int = 25, made: Made | None = None) -> None:
        """Open the encoder. `width` and `height` are in pixels and even; ValueError otherwise.

        `made`: go on with a file of the same size that has so much in it, made by an encoder before. The sound is to
        begin with sample `first_sample`, a little before the end of what the file has.
        """
        if width % 2 or height % 2:
            raise ValueError(f"H.264 needs even sizes, got {width}x{height}")
        self._queue = _ByteQueue()
        self._container = av.open(
            self._queue,
            "w",
            format="mp4",
            options={
                "movflags": "empty_moov+default_base_moof+delay_moov" + ("+frag_discont" if made else ""),
                "frag_duration": str(_FRAGMENT_US),
            },
        )
        self._video = self._container.add_stream("libx264", rate=fps, options=dict(_X264_OPTIONS))
        self._video.width, self._video.height, self._video.pix_fmt = width, height, "yuv420p"
        self._video.codec_context.gop_size = fps  # a key frame a second keeps seeking quick
        self._video.codec_context.time_base = Fraction(1, fps)
        self._audio = self._container.add_stream("aac", rate=AUDIO_RATE)
        self._audio.layout = "mono"
        self._audio.bit_rate = 128_000
        self._made = made
        self._num_frames = made.num_frames if made else 0
        self.first_sample = max(0, made.num_samples - _SETTLING_SAMPLES) if made else 0
        self._num_samples = self.first_sample
        self._has_header = made is not None  # that of the encoder before is the same

    def encode(self, frames: Iterable[NDArray[np.uint8]], samples: NDArray[np.int16]) -> bytes:
        """Add RGB frames (height, width, 3) and the mono 48 kHz samples that sound meanwhile.

        Returns the bytes that are ready, possibly none: the encoder holds a few frames back.
        """
        for picture in frames:
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = self._num_frames, Fraction(1, self._video.codec_context.framerate)
            self._num_frames += 1
            self._mux(self._video.encode(frame))
        if len(samples):
            sound = av.AudioFrame.from_ndarray(
                np.ascontiguousarray(samples)[None], format="s16", layout="mono"
            )
            sound.sample_rate = AUDIO_RATE
            sound.pts, sound.time_base = self._num_samples, Fraction(1, AUDIO_RATE)
            self._num_samples += len(samples)
            self._mux(self._audio.encode(sound))
        return self._take()

    def finish(self) -> bytes:
        """Flush both streams and return the last bytes. The encoder cannot be used afterwards."""
        self._mux(self._video.encode(None))
        self._mux(self._audio.encode(None))
        self._container.close()
        return self._take()

    def _mux(self, packets: Iterable[av.Packet[Any]]) -> None:
        for packet in packets:
            if self._made is not None and packet.stream is self._audio:
                assert packet.pts is not None, "the encoder counts"
                if packet.pts < self._made.num_samples:
                    continue  # the file has it
                # The header says that the first samples of all are the encoder's own, and players leave them out.
                packet.pts = packet.dts = packet.pts + self._audio.codec_context.frame_size
            self._container.mux(packet)

    def _take(self) -> bytes:
        """Return what was written, less a header that the file has."""
        data = self._queue.take()
        if data and self._has_header:
            self._has_header = False
            fragment = data.find(b"moof")
            data = data[fragment - 4 :] if fragment >= 0 else b""
        return data
