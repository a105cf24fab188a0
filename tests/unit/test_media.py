"""The encoder, the growing log and the sealed file."""

from __future__ import annotations

import threading
from pathlib import Path

import av
import numpy as np
import pytest

from liveavatar.core.request import AUDIO_RATE
from liveavatar.media.encoder import StreamEncoder
from liveavatar.media.made import read_made, read_pictures
from liveavatar.media.mux import complete_length, remux_faststart
from liveavatar.service.media_log import MediaLog, read_slice

SAMPLES = AUDIO_RATE // 25


def encode(num_frames: int, *, chunk: int = 10, beep_every: int = 0) -> bytes:
    """Make a video that flashes white and beeps in the same frame, every `beep_every` frames."""
    encoder, data = StreamEncoder(128, 96), b""
    beep = (12_000 * np.sin(2 * np.pi * 1000 * np.arange(SAMPLES) / AUDIO_RATE)).astype(np.int16)
    for first in range(0, num_frames, chunk):
        indices = range(first, min(first + chunk, num_frames))
        is_beep = [bool(beep_every) and index % beep_every == 0 for index in indices]
        frames = [np.full((96, 128, 3), 255 if flash else 20, np.uint8) for flash in is_beep]
        sound = np.concatenate([beep if flash else np.zeros(SAMPLES, np.int16) for flash in is_beep])
        data += encoder.encode(frames, sound)
    return data + encoder.finish()


def flashes_and_beeps(path: Path) -> tuple[list[float], list[float]]:
    flashes: list[float] = []
    beeps: list[float] = []
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            if frame.to_ndarray(format="gray").mean() > 128:
                flashes.append(frame.time)
    with av.open(str(path)) as container:
        for frame in container.decode(audio=0):
            loud = np.flatnonzero(np.abs(frame.to_ndarray()[0]) > 0.1)
            if len(loud) and (not beeps or frame.time + loud[0] / AUDIO_RATE - beeps[-1] > 0.5):
                beeps.append(frame.time + loud[0] / AUDIO_RATE)
    return flashes, beeps


def test_sound_and_picture_stay_together_for_ten_minutes(tmp_path: Path) -> None:
    log, video = tmp_path / "media.mp4", tmp_path / "video.mp4"
    log.write_bytes(encode(15_000, chunk=100, beep_every=1500))
    assert remux_faststart(log, video)
    for path in (log, video):
        flashes, beeps = flashes_and_beeps(path)
        assert len(flashes) == len(beeps) == 10
        assert max(abs(flash - beep) for flash, beep in zip(flashes, beeps, strict=True)) < 0.04
        assert flashes[-1] == pytest.approx(13_500 / 25, abs=1e-3)
    with av.open(str(video)) as container:
        seconds = [float(stream.duration * stream.time_base) for stream in container.streams]
    assert max(seconds) - min(seconds) < 0.04


def test_the_first_bytes_come_early() -> None:
    encoder = StreamEncoder(128, 96)
    ready = [
        bool(encoder.encode([np.zeros((96, 128, 3), np.uint8)], np.zeros(SAMPLES, np.int16)))
        for _ in range(12)
    ]
    assert any(ready), "within the first block of the s2v engine"


def test_the_same_frames_give_the_same_bytes() -> None:
    assert encode(60, beep_every=7) == encode(60, beep_every=7)


def test_odd_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="even"):
        StreamEncoder(127, 96)


def test_every_piece_ends_with_a_whole_fragment(tmp_path: Path) -> None:
    """So a log is whole after every append, and a reader never sees it shrink."""
    encoder, log = StreamEncoder(128, 96), tmp_path / "media.mp4"
    log.touch()
    noise = np.random.default_rng(0)
    for _ in range(20):
        frames = [noise.integers(0, 255, (96, 128, 3), dtype=np.uint8) for _ in range(10)]
        with log.open("ab") as file:
            file.write(encoder.encode(frames, np.zeros(10 * SAMPLES, np.int16)))
        assert complete_length(log) == log.stat().st_size
    with log.open("ab") as file:
        file.write(encoder.finish())
    assert complete_length(log) == log.stat().st_size > 0


def test_a_torn_log_still_gives_a_video(tmp_path: Path) -> None:
    data = encode(100)
    for length in (len(data) // 2, len(data) // 3, 5000):
        log, video = tmp_path / "media.mp4", tmp_path / "video.mp4"
        log.write_bytes(data[:length])
        kept = complete_length(log)
        assert 0 < kept <= length
        log.write_bytes(data[:kept])
        assert remux_faststart(log, video)
        with av.open(str(video)) as container:
            assert sum(1 for _ in container.decode(video=0)) > 0


def test_a_log_without_a_fragment_gives_no_video(tmp_path: Path) -> None:
    log, video = tmp_path / "media.mp4", tmp_path / "video.mp4"
    log.write_bytes(encode(30)[:20])
    assert complete_length(log) == 0
    log.write_bytes(b"")
    assert complete_length(log) == 0
    assert not video.exists()


def test_many_readers_follow_a_growing_log(tmp_path: Path) -> None:
    log = MediaLog(tmp_path / "media.mp4")
    pieces = [bytes([number]) * (number + 1) for number in range(50)]
    received: dict[int, bytes] = {}

    def follow(reader: int) -> None:
        data, offset, ended = b"", 0, False
        while not ended:
            part = log.read(offset, wait_s=5)
            data, offset, ended = data + part.data, part.next_offset, part.ended
        received[reader] = data

    readers = [threading.Thread(target=follow, args=(number,)) for number in range(4)]
    for reader in readers:
        reader.start()
    for piece in pieces:
        log.append(piece)
    log.end()
    for reader in readers:
        reader.join(10)
    assert all(received[number] == b"".join(pieces) for number in range(4))


def test_reading_waits_no_longer_than_asked_and_refuses_bad_offsets(tmp_path: Path) -> None:
    log = MediaLog(tmp_path / "media.mp4")
    log.append(b"abc")
    part = log.read(3, wait_s=0.05)
    assert (part.data, part.next_offset, part.ended) == (b"", 3, False)
    with pytest.raises(ValueError, match="offset"):
        read_slice(tmp_path / "media.mp4", 4, size=3, ended=True)
    with pytest.raises(ValueError, match="offset"):
        log.read(-1, wait_s=0)
    log.end()
    log.end()
    assert log.read(0, wait_s=0).ended


def test_another_encoder_goes_on_with_a_file_that_broke_off(tmp_path: Path) -> None:
    """Twice; the sound is one tone throughout, and a picture's grey is its number."""
    num_frames, log, video = 120, tmp_path / "media.mp4", tmp_path / "video.mp4"
    log.touch()
    tone = (9000 * np.sin(2 * np.pi * 440 * np.arange(num_frames * SAMPLES) / AUDIO_RATE)).astype(np.int16)
    assert read_made(log) is None
    for stop in (40, 84, num_frames):
        made = read_made(log)
        encoder = StreamEncoder(128, 96, made=made)
        next_sample, data = encoder.first_sample, b""
        for frame in range(made.num_frames if made else 0, stop):
            end = (frame + 1) * SAMPLES
            data += encoder.encode([np.full((96, 128, 3), 2 * frame, np.uint8)], tone[next_sample:end])
            next_sample = max(next_sample, end)
        data += encoder.finish() if stop == num_frames else b""
        with log.open("ab") as file:
            file.write(data)
    made = read_made(log)
    assert made is not None
    assert (made.width, made.height, made.num_frames) == (128, 96, num_frames)
    assert remux_faststart(log, video)
    for path in (log, video):
        with av.open(str(path)) as container:
            frames = list(container.decode(video=0))
        assert [frame.time for frame in frames] == pytest.approx([index / 25 for index in range(num_frames)])
        greys = [frame.to_ndarray(format="rgb24").mean() for frame in frames]
        assert greys == pytest.approx([2 * index for index in range(num_frames)], abs=4)
        with av.open(str(path)) as container:
            sound = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
        assert abs(len(sound) - len(tone)) <= 1024
        length = min(len(sound), len(tone))
        assert np.abs(sound[:length] - tone[:length] / 32768)[1024:-1024].max() < 0.05
    first, latest = read_pictures(log, num_frames=96, num_latest=73)
    assert (first.shape, latest.shape) == ((1, 96, 128, 3), (73, 96, 128, 3))
    assert latest.mean((1, 2, 3)) == pytest.approx([2 * index for index in range(23, 96)], abs=4)
    assert len(read_pictures(log, num_frames=12, num_latest=73)[1]) == 12
