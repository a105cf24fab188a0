"""Re-package a finished or broken-off fragmented MP4 into one that players seek in, without re-encoding."""

from __future__ import annotations

from pathlib import Path

import av


def complete_length(path: Path) -> int:
    """Return how many bytes of a fragmented MP4 form whole fragments.

    A process that died in mid-write leaves half a fragment behind; this is the length to keep. Zero when not
    even the header (`ftyp` + `moov`) is whole.
    """
    size = path.stat().st_size
    position, complete, has_header = 0, 0, False
    with path.open("rb") as file:
        while position + 8 <= size:
            file.seek(position)
            head = file.read(8)
            box_size, kind = int.from_bytes(head[:4], "big"), head[4:]
            if box_size < 8 or position + box_size > size:
                break
            position += box_size
            if kind == b"moov":
                has_header = True
            if has_header and kind != b"moof":  # a fragment is whole with its data, not before
                complete = position
    return complete


def remux_faststart(source: Path, target: Path) -> bool:
    """Write `target` as a plain MP4 with its index in front. Return False when `source` holds no frame.

    The target appears whole or not at all.
    """
    part = target.with_suffix(".part.mp4")
    num_packets = 0
    try:
        with (
            av.open(str(source)) as reader,
            av.open(str(part), "w", format="mp4", options={"movflags": "faststart"}) as writer,
        ):
            streams = {stream.index: writer.add_stream_from_template(stream) for stream in reader.streams}
            for packet in reader.demux():
                if packet.dts is None:
                    continue
                packet.stream = streams[packet.stream.index]
                writer.mux(packet)
                num_packets += 1
        if num_packets:
            part.replace(target)
    finally:
        part.unlink(missing_ok=True)
    return num_packets > 0
