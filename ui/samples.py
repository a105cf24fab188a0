"""The sample portraits and voices that come with the app."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

SAMPLES_DIR = Path(__file__).resolve().parent.parent / "assets" / "samples"


@dataclass(frozen=True, kw_only=True)
class SamplePortrait:
    """A picture to try, with the voice that suits it."""

    path: Path
    title: str
    voice_index: int


@dataclass(frozen=True, kw_only=True)
class SampleVoice:
    """A recording to try."""

    path: Path
    title: str
    language: str
    seconds: float
    chinese: Mapping[str, str]  # its title and language


@dataclass(frozen=True, kw_only=True)
class Samples:
    """All samples. Both are empty when the files are not there."""

    portraits: tuple[SamplePortrait, ...] = ()
    voices: tuple[SampleVoice, ...] = ()


def load_samples(folder: Path = SAMPLES_DIR) -> Samples:
    """Read samples.json; files that are not there are left out.

    Portraits without a voice of their own take turns with the voices.
    """
    index = folder / "samples.json"
    if not index.is_file():
        return Samples()
    listed = json.loads(index.read_text(encoding="utf-8"))
    voices = tuple(
        SampleVoice(
            path=folder / voice["file"],
            title=voice["title"],
            language=voice.get("language", ""),
            seconds=float(voice.get("seconds", 0)),
            chinese=voice.get("chinese", {}),
        )
        for voice in listed["voices"]
        if (folder / voice["file"]).is_file()
    )
    if not voices:
        return Samples()
    index_of = {voice.path: number for number, voice in enumerate(voices)}
    pairs = {pair["portrait"]: folder / pair["voice"] for pair in listed.get("pairs", [])}
    portraits = tuple(
        SamplePortrait(
            path=folder / portrait["file"],
            title=portrait["title"],
            voice_index=index_of.get(pairs.get(portrait["file"], folder), number % len(voices)),
        )
        for number, portrait in enumerate(listed["portraits"])
        if (folder / portrait["file"]).is_file()
    )
    return Samples(portraits=portraits, voices=voices)
