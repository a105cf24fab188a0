"""What a growing video holds that broke off, so that another encoder and another engine can go on with it."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

Pictures = NDArray[np.uint8]  # [frames, H, W, 3]


@dataclass(frozen=True, kw_only=True)
class Made:
    """How far a file has got: picture and sound need not end together."""

    width: int
    height: int
    num_frames: int
    num_samples: int


def read_made(path: Path) -> Made | None:
    """Return what a file of whole fragments holds; None where there is no picture in it yet."""
    if not path.is_file() or not path.stat().st_size:
        return None
    with av.open(str(path)) as container:
        video, audio = container.streams.video[0], container.streams.audio[0]
        num_frames = num_samples = 0
        for packet in container.demux(video, audio):
            if packet.pts is None:
                continue
            if packet.stream.type == "video":
                num_frames += 1
            else:
                num_samples = packet.pts + audio.codec_context.frame_size
        size = video.width, video.height
    return Made(width=size[0], height=size[1], num_frames=num_frames, num_samples=num_samples)


def read_pictures(path: Path, *, num_frames: int, num_latest: int) -> tuple[Pictures, Pictures]:
    """Return the first picture of a file and the latest ones of its first `num_frames`, at most `num_latest`.

    Of a long video only the end is decoded. There are no pictures that depend on later ones.
    """
    with av.open(str(path)) as container:
        first = _levels(next(container.decode(video=0)))
    latest: deque[Pictures] = deque(maxlen=num_latest)
    with av.open(str(path)) as container:
        video = container.streams.video[0]
        packets: list[av.Packet[Any]] = []  # from a key picture on
        for index, packet in enumerate(container.demux(video)):
            if packet.pts is None or index == num_frames:
                break
            if packet.is_keyframe and index <= num_frames - num_latest:
                packets.clear()
            packets.append(packet)
        for frames in (*map(video.codec_context.decode, packets), video.codec_context.decode(None)):
            latest.extend(map(_levels, frames))
    return first[None], np.stack(latest)


def _levels(frame: av.VideoFrame) -> Pictures:
    return frame.to_ndarray(format="rgb24").astype(np.uint8, copy=False)
