"""Any recording an operator may have -> mono 16-bit 48 kHz WAV."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import soundfile

from liveavatar.core.errors import Diagnosis, InputRejected
from liveavatar.core.note import Note
from liveavatar.core.request import AUDIO_RATE

MIN_SECONDS = 0.2
_SILENCE_DBFS = -55.0  # of the loudest 20 ms; the noise of a muted microphone lies below, whispering above
_BLOCK = AUDIO_RATE // 50
_SOUND_TRACK = Note(code="sound_track", text="The voice is the sound track of the video you gave.")

# Demuxers that only read the file itself: a playlist could otherwise name other files or hosts.
_CONTAINERS = {
    "wav", "w64", "aiff", "caf", "au", "mp3", "flac", "ogg", "aac", "amr", "asf", "avi", "flv", "mpegts", "mpeg",
    "mov", "mp4", "m4a", "3gp", "3g2", "mj2", "matroska", "webm",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ImportedAudio:
    """What was written, and one note per change worth telling."""

    seconds: float
    notes: tuple[Note, ...]


def import_audio(source: Path, target: Path, *, max_seconds: float) -> ImportedAudio:
    """Write the recording as mono 16-bit 48 kHz WAV.

    Raises InputRejected when it is missing, unreadable, without sound, silent, too short or too long.
    """
    if not source.is_file():
        raise InputRejected(
            Diagnosis(
                code="missing_voice",
                title="There is no voice.",
                cause=f"The file “{source.name}” does not exist."
                if source.name
                else "It is what the face says.",
                remedy="Add or record a voice.",
            )
        )
    try:
        with av.open(str(source), options={"protocol_whitelist": "file"}) as container:
            if not set(container.format.name.split(",")) & _CONTAINERS:
                raise _unreadable(source, f"Its format ({container.format.name}) is not a recording.")
            if not container.streams.audio:
                raise InputRejected(
                    Diagnosis(
                        code="no_sound_track",
                        title=f"“{source.name}” has no sound.",
                        cause="It is a video or picture without a sound track.",
                        remedy="Choose a file in which somebody speaks.",
                        facts={"name": source.name},
                    )
                )
            if container.duration:
                _check_length(container.duration / av.time_base, max_seconds)
            notes = (_SOUND_TRACK,) if _is_video(container) else ()
            seconds, peak_dbfs = _transcode(container, target, max_seconds)
    except (av.FFmpegError, ValueError, OSError) as error:
        raise _unreadable(source, "It is not a recording, or it is damaged.") from error
    _check_length(seconds, max_seconds)
    if peak_dbfs < _SILENCE_DBFS:
        raise InputRejected(
            Diagnosis(
                code="silent_voice",
                title="The voice is silent.",
                cause=f"Its loudest moment is at {peak_dbfs:.0f} dB; speech is above {_SILENCE_DBFS:.0f} dB.",
                remedy="Check the microphone or choose another recording.",
                facts={"loudest_db": round(peak_dbfs), "limit_db": round(_SILENCE_DBFS)},
            )
        )
    return ImportedAudio(seconds=seconds, notes=notes)


def _is_video(container: Any) -> bool:
    """Tell a film from a song with a cover picture."""
    attached = av.stream.Disposition.attached_pic
    return any(not stream.disposition & attached for stream in container.streams.video)


def _transcode(container: Any, target: Path, max_seconds: float) -> tuple[float, float]:
    """Decode the first sound track into `target`; return its seconds and the level of its loudest 20 ms in dB."""
    resampler = av.AudioResampler(format="s16", layout="mono", rate=AUDIO_RATE)
    num_samples, loudest, rest = 0, 0.0, np.zeros(0, np.int16)
    with soundfile.SoundFile(target, "w", samplerate=AUDIO_RATE, channels=1, subtype="PCM_16") as output:
        for frame in _frames_then_flush(container):
            for converted in resampler.resample(frame):
                samples = converted.to_ndarray()[0]
                output.write(samples)
                num_samples += len(samples)
                rest = np.concatenate([rest, samples])
                blocks, rest = rest[: len(rest) // _BLOCK * _BLOCK], rest[len(rest) // _BLOCK * _BLOCK :]
                if len(blocks):
                    power = (blocks.reshape(-1, _BLOCK).astype(np.float32) ** 2).mean(axis=1)
                    loudest = max(loudest, float(power.max()))
            if num_samples > (max_seconds + 1) * AUDIO_RATE:
                break
    level = math.sqrt(loudest) / 32768
    return num_samples / AUDIO_RATE, 20 * math.log10(max(level, 1e-6))


def _frames_then_flush(container: Any) -> Any:
    yield from container.decode(audio=0)
    yield None


def _check_length(seconds: float, max_seconds: float) -> None:
    if seconds < MIN_SECONDS:
        raise InputRejected(
            Diagnosis(
                code="voice_too_short",
                title=f"The voice is only {seconds * 1000:.0f} ms long.",
                cause=f"At least {MIN_SECONDS * 1000:.0f} ms are needed for a mouth to move.",
                remedy="Record or choose a longer one.",
                facts={"length_ms": round(seconds * 1000), "least_ms": round(MIN_SECONDS * 1000)},
            )
        )
    if seconds > max_seconds:
        raise InputRejected(
            Diagnosis(
                code="voice_too_long",
                title=f"The voice is {seconds / 60:.0f} minutes long.",
                cause=f"This installation makes videos of up to {max_seconds / 60:g} minutes.",
                remedy="Cut it into parts, or raise LIVEAVATAR_MAX_AUDIO_S and start the app again.",
                facts={"minutes": round(seconds / 60), "most_minutes": round(max_seconds / 60, 1)},
            )
        )


def _unreadable(source: Path, cause: str) -> InputRejected:
    return InputRejected(
        Diagnosis(
            code="unreadable_voice",
            title=f"The voice “{source.name}” cannot be read.",
            cause=cause,
            remedy="Save it as WAV, MP3, M4A, FLAC or OGG and add it again.",
            facts={"name": source.name},
        )
    )
