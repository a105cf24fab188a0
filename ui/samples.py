"""The sample portraits and voices that come with the app."""

from __future__ import annotations

import json
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


@dataclass(frozen=True, kw_only=True)
class Samples:
    """All samples. Both are empty when the folder is not there."""

    portraits: tuple[SamplePortrait, ...] = ()
    voices: tuple[SampleVoice, ...] = ()


def load_samples(folder: Path = SAMPLES_DIR) -> Samples:
    """Read samples.json. Portraits without a voice of their own take turns with the voices."""
    index = folder / "samples.json"
    if not index.is_file():
        return Samples()
    listed = json.loads(index.read_text(encoding="utf-8"))
    voices = tuple(
        SampleVoice(
            path=folder / "voices" / Path(voice["file"]).name,
            title=voice["title"],
            language=voice.get("language", ""),
            seconds=float(voice.get("seconds", 0)),
        )
        for voice in listed["voices"]
    )
    pairs = {Path(pair["portrait"]).name: Path(pair["voice"]).name for pair in listed.get("pairs", [])}
    voice_names = [voice.path.name for voice in voices]
    portraits = []
    for number, portrait in enumerate(listed["portraits"]):
        name = Path(portrait["file"]).name
        voice_name = pairs.get(name, voice_names[number % len(voice_names)])
        portraits.append(
            SamplePortrait(
                path=folder / "portraits" / name,
                title=portrait["title"],
                voice_index=voice_names.index(voice_name),
            )
        )
    return Samples(portraits=tuple(portraits), voices=voices)
