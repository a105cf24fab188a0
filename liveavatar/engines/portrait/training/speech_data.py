"""Make training data for the speech net: synthetic voices whose sounds are timed by the synthesiser.

    python -m liveavatar.engines.portrait.training.speech_data --out DIR --minutes 160 [--seed 1]
    python -m liveavatar.engines.portrait.training.speech_data --fixture tests/portrait/data/heldout_voice.flac

needs `espeak-ng` with its library and `flite` (Debian packages espeak-ng and flite; used here only, the
product neither ships nor calls them). Start it with several seeds at once to use several cores.
DIR receives `train-SEED-*.npz` and `heldout-SEED.npz`. Held-out clips keep their samples so that the full
analysis can be scored. The espeak-ng variants and the language among them never appear in the training files;
of the few flite voices, which are built from recordings of people, `train_speech` leaves one out.
The second form writes the recording of a held-out voice that the tests use, with its sounds as JSON.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import random
import subprocess
import tempfile
import time
import wave
from dataclasses import dataclass
from math import gcd
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.signal import resample_poly

from liveavatar.engines.portrait.mel import MEL_MARGIN, SAMPLE_RATE, log_mel
from liveavatar.engines.portrait.motion import Floats
from liveavatar.engines.portrait.phones import (
    TimedSound,
    mouth_targets,
    sounds_of_arpabet,
    sounds_of_ipa,
    split_evenly,
)
from liveavatar.engines.portrait.speech_motion import LOUD_RMS
from liveavatar.engines.portrait.voice_level import FRAME_SAMPLES, measure_level

FLITE_VOICES = ("slt", "rms", "awb", "kal16")  # `train_speech` leaves one of them out
HELDOUT_FLITE_VOICES = ("rms", "slt")
FIXTURE_VOICE = "slt"
ESPEAK_LANGUAGES = (
    *("en-us",) * 6, *("en",) * 3, *("fr", "de", "es") * 2, "en-gb-scotland", "en-gb-x-rp",
    "pt", "nl", "sv", "pl", "tr", "ro", "fi", "id", "cmn-latn-pinyin", "cs", "el", "hu", "sw", "da",
)  # fmt: skip
HELDOUT_ESPEAK_LANGUAGES = ("it",)
ESPEAK_VARIANTS = (
    "", "f1", "f2", "f3", "f5", "m1", "m2", "m3", "m4", "m5", "m7", "m8", "Alex", "Alicia", "Andrea", "Andy",
    "Denis", "Diogo", "Gene", "Henrique", "Hugo", "Jacky", "Lee", "Marco", "Mario", "Michael", "Mike", "adam",
    "anika", "aunty", "belinda", "benjamin", "boris", "caleb", "david", "ed", "edward", "grandma", "gustave",
    "iven", "john", "kaukovalta", "klatt", "klatt2", "klatt4", "max", "miguel", "norbert", "pablo",
    "paul", "pedro", "quincy", "rob", "robert", "sandro", "shelby", "steph2", "travis", "victor", "zac", "whisper",
)  # fmt: skip
HELDOUT_ESPEAK_VARIANTS = ("f4", "m6", "Annie", "linda", "grandpa", "klatt3", "antonio", "steph")

FUNCTION_WORDS = (
    "the", "a", "of", "to", "and", "in", "is", "you", "that", "it", "he", "was", "for", "on", "are", "with",
    "as", "they", "be", "this", "have", "from", "or", "by", "but", "what", "some", "we", "can", "out", "other",
    "were", "all", "your", "when", "up", "use", "how", "said", "an", "each", "she", "who", "do", "would", "no",
    "more", "through", "about", "so",
)  # fmt: skip
SYLLABLE_STARTS = (
    "b", "p", "m", "f", "v", "w", "d", "t", "n", "l", "r", "s", "z", "g", "k", "h", "j", "sh", "ch", "st", "tr",
    "pl", "br", "fl", "kw", "y", "",
)  # fmt: skip
SYLLABLE_VOWELS = ("a", "e", "i", "o", "u", "a", "o", "u", "ai", "ou", "ei", "oo", "ee", "au")
SYLLABLE_ENDS = ("n", "m", "s", "l", "r", "t", "k", "p", "f", "b", *("",) * 12)
FIXTURE_SENTENCES = (
    "Good morning, and welcome to our little studio.",
    "My brother bought a purple umbrella in Paris.",
    "We move through the room, whose window opens slowly.",
    "Please keep the camera below the map.",
    "Five very funny foxes live above the river.",
    "Who would choose a blue boat for the show?",
    "Nobody remembers the number, but Bob may know.",
    "Thank you for watching, and see you tomorrow.",
)
WORD_LIST = Path("/usr/share/dict/american-english")
SHORTEST_SOUND_S = 0.012
MELS_SCALE, MELS_OFFSET = 10.0, 16.0  # log-mel -16..9.5 stored as bytes


@dataclass(frozen=True, kw_only=True)
class Clip:
    """One synthetic sentence at 16 kHz with its timed sounds."""

    samples: Floats
    sounds: list[TimedSound]
    voice: str


class _EventId(ctypes.Union):
    _fields_ = (("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8))


class _Event(ctypes.Structure):
    """espeak_EVENT of speak_lib.h."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),  # milliseconds
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _EventId),
    )


class EspeakVoice:
    """The espeak-ng library, asked for samples and phoneme events."""

    _LIST_END, _PHONEME = 0, 7
    _SYNCHRONOUS, _PHONEME_EVENTS_IPA = 2, 3
    _RATE, _PITCH, _PITCH_RANGE = 1, 3, 4
    _UTF8 = 1

    def __init__(self) -> None:
        self._library = ctypes.CDLL("libespeak-ng.so.1")
        self.rate = self._library.espeak_Initialize(self._SYNCHRONOUS, 0, None, self._PHONEME_EVENTS_IPA)
        self._blocks: list[NDArray[np.int16]] = []
        self._events: list[tuple[float, str]] = []
        signature = ctypes.CFUNCTYPE(
            ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event)
        )
        self._callback = signature(self._receive)  # kept: the library holds no reference
        self._library.espeak_SetSynthCallback(self._callback)

    def say(self, text: str, voice: str, rng: random.Random) -> tuple[Floats, list[TimedSound]]:
        """Return samples at `self.rate` and their sounds; speed and pitch are drawn from `rng`."""
        self._blocks.clear()
        self._events.clear()
        if self._library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise ValueError(f"espeak-ng has no voice {voice!r}")
        settings = {self._RATE: (105, 240), self._PITCH: (15, 85), self._PITCH_RANGE: (20, 90)}
        for parameter, (low, high) in settings.items():
            self._library.espeak_SetParameter(parameter, rng.randint(low, high), 0)
        encoded = text.encode()
        self._library.espeak_Synth(encoded, len(encoded) + 1, 0, 1, 0, self._UTF8, None, None)
        samples = np.concatenate(self._blocks) if self._blocks else np.zeros(0, np.int16)
        ends = [start for start, _ in self._events[1:]] + [len(samples) / self.rate]
        sounds: list[TimedSound] = []
        for (start_s, symbols), end_s in zip(self._events, ends, strict=True):
            if symbols.startswith("(") or (not symbols and end_s - start_s < SHORTEST_SOUND_S):
                continue  # a change of language, or a mark between words that lasts no time
            end_s = max(end_s, start_s + SHORTEST_SOUND_S)
            sounds += split_evenly(start_s, end_s, sounds_of_ipa(symbols))
        return _to_float(samples), sounds

    def _receive(self, wave: Any, num_samples: int, events: Any) -> int:
        if num_samples > 0 and wave:
            self._blocks.append(np.ctypeslib.as_array(wave, (num_samples,)).copy())
        index = 0
        while events[index].type != self._LIST_END:
            if events[index].type == self._PHONEME:
                symbols = events[index].id.string.decode("utf8", "ignore")
                self._events.append((events[index].audio_position / 1000, symbols))
            index += 1
        return 0


def flite_say(
    text: str, voice: str, folder: Path, settings: dict[str, float]
) -> tuple[Floats, int, list[TimedSound]]:
    """Return samples, their rate and their sounds from the flite program."""
    target = folder / "flite.wav"
    command = ["flite", "-voice", voice, "-t", text, "-psdur", "-o", str(target)]
    for name, value in settings.items():
        command += ["--setf", f"{name}={value:.2f}"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    with wave.open(str(target)) as file:
        rate = file.getframerate()
        samples = _to_float(np.frombuffer(file.readframes(file.getnframes()), np.int16))
    sounds: list[TimedSound] = []
    start_s = 0.0
    for entry in printed.split():
        phone, end = entry.rsplit(":", 1)
        sounds += split_evenly(start_s, float(end), sounds_of_arpabet(phone))
        start_s = float(end)
    return samples, rate, sounds


def _to_float(samples: NDArray[np.int16]) -> Floats:
    return samples.astype(np.float32) / np.float32(32768)


class SentenceMaker:
    """Random sentences: dictionary words for English, pronounceable syllables for every other language."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._words: list[str] = []
        if WORD_LIST.is_file():
            words = WORD_LIST.read_text(encoding="utf8").split()
            self._words = [word for word in words if word.isascii() and word.isalpha() and 1 < len(word) < 12]

    def sentence(self, *, english: bool) -> str:
        words = [self._word(english) for _ in range(self._rng.randint(3, 12))]
        for index in range(len(words) - 1):
            if self._rng.random() < 0.1:
                words[index] += self._rng.choice(",;.!?")
        return " ".join(words) + self._rng.choice("..!?")

    def _word(self, english: bool) -> str:
        if english and self._rng.random() < 0.4:
            return self._rng.choice(FUNCTION_WORDS)
        if english and self._words and self._rng.random() < 0.85:
            return self._rng.choice(self._words)
        parts = (SYLLABLE_STARTS, SYLLABLE_VOWELS, SYLLABLE_ENDS)
        return "".join(self._rng.choice(part) for _ in range(self._rng.randint(1, 3)) for part in parts)


class ClipMaker:
    """Draws clips from the training voices or from the held-out ones."""

    def __init__(self, seed: int, folder: Path) -> None:
        self._rng = random.Random(seed)
        self._sentences = SentenceMaker(self._rng)
        self._espeak = EspeakVoice()
        self._folder = folder

    def draw(self, *, heldout: bool) -> Clip:
        """Return one clip. Training clips are resampled at random, which moves formants, pitch and speed."""
        rng = self._rng
        if rng.random() < 0.5:
            voice = rng.choice(HELDOUT_FLITE_VOICES if heldout else FLITE_VOICES)
            text = self._sentences.sentence(english=True)
            settings = {
                "duration_stretch": rng.uniform(0.75, 1.35),
                "int_f0_target_mean": rng.uniform(85, 240),
            }
            samples, rate, sounds = flite_say(text, voice, self._folder, settings)
        else:
            # A held-out clip has a held-out variant, a held-out language, or both.
            unseen = rng.choice(("variant", "language", "both")) if heldout else "neither"
            languages = HELDOUT_ESPEAK_LANGUAGES if unseen in ("language", "both") else ESPEAK_LANGUAGES
            variants = HELDOUT_ESPEAK_VARIANTS if unseen in ("variant", "both") else ESPEAK_VARIANTS
            language, variant = rng.choice(languages), rng.choice(variants)
            voice = language + (f"+{variant}" if variant else "")
            text = self._sentences.sentence(english=language.startswith("en"))
            samples, sounds = self._espeak.say(text, voice, rng)
            rate = self._espeak.rate
        factor = 1.0 if heldout or rng.random() < 0.4 else rng.uniform(0.84, 1.2)
        return self._finish(samples, rate, sounds, factor, voice)

    def _finish(
        self, samples: Floats, rate: int, sounds: list[TimedSound], factor: float, voice: str
    ) -> Clip:
        """Resample by `factor`, bring to the common level, and put a random pause on both sides."""
        new_rate = round(rate * factor / 50) * 50
        factor = new_rate / rate
        common = gcd(SAMPLE_RATE, new_rate)
        voiced = resample_poly(samples, SAMPLE_RATE // common, new_rate // common).astype(np.float32)
        loud_rms = measure_level(voiced).loud_rms
        if loud_rms == 0 or len(voiced) < 0.6 * SAMPLE_RATE:
            raise ValueError(f"{voice} said nothing")
        before_s, after_s = self._rng.uniform(0.1, 0.8), self._rng.uniform(0.1, 0.8)
        pauses = [np.zeros(int(seconds * SAMPLE_RATE), np.float32) for seconds in (before_s, after_s)]
        joined = np.concatenate([pauses[0], voiced * (LOUD_RMS / loud_rms), pauses[1]])
        joined = joined[: len(joined) // FRAME_SAMPLES * FRAME_SAMPLES]
        timed = [TimedSound(start_s=0.0, end_s=before_s, sound="sil")]
        timed += [
            TimedSound(
                start_s=before_s + item.start_s / factor,
                end_s=before_s + item.end_s / factor,
                sound=item.sound,
            )
            for item in sounds
        ]
        end_s = max(timed[-1].end_s, before_s + len(voiced) / SAMPLE_RATE)
        timed.append(TimedSound(start_s=min(timed[-1].end_s, end_s), end_s=end_s + after_s, sound="sil"))
        return Clip(samples=joined, sounds=timed, voice=voice)


def pack(clips: list[Clip], *, keep_samples: bool) -> dict[str, NDArray[Any]]:
    """Return the arrays of a data file: bytes for mels and targets, clip after clip.

    mels (F, 48) uint8, targets (T, 8) uint8 = (value + 1) * 100, classes (T,) uint8, lengths (clips,) in
    video frames, voices (clips,); with `keep_samples` also samples (N,) int16.
    """
    mels, targets, classes, lengths = [], [], [], []
    for clip in clips:
        num_frames = len(clip.samples) // FRAME_SAMPLES
        mouth, sound_classes = mouth_targets(clip.sounds, num_frames)
        mel = log_mel(np.pad(clip.samples, MEL_MARGIN))
        mels.append(np.clip((mel + MELS_OFFSET) * MELS_SCALE, 0, 255).round().astype(np.uint8))
        targets.append(np.clip((mouth + 1) * 100, 0, 255).round().astype(np.uint8))
        classes.append(sound_classes.astype(np.uint8))
        lengths.append(num_frames)
    arrays: dict[str, NDArray[Any]] = {
        "mels": np.concatenate(mels),
        "targets": np.concatenate(targets),
        "classes": np.concatenate(classes),
        "lengths": np.array(lengths),
        "voices": np.array([clip.voice for clip in clips]),
    }
    if keep_samples:
        samples = np.concatenate([clip.samples for clip in clips])
        arrays["samples"] = (np.clip(samples, -1, 1) * 32767).astype(np.int16)
    return arrays


def save(path: Path, arrays: dict[str, NDArray[Any]]) -> None:
    """Write arrays as a compressed .npz."""
    np.savez_compressed(path, allow_pickle=False, **arrays)


def make_clips(maker: ClipMaker, minutes: float, *, heldout: bool) -> list[Clip]:
    """Draw clips until they last `minutes`; a voice that says nothing is drawn again."""
    clips: list[Clip] = []
    seconds = 0.0
    while seconds < minutes * 60:
        try:
            clip = maker.draw(heldout=heldout)
        except ValueError:
            continue
        clips.append(clip)
        seconds += len(clip.samples) / SAMPLE_RATE
    return clips


def write_fixture(recording: Path) -> None:
    """Write the held-out voice saying FIXTURE_SENTENCES, and its sounds beside it as JSON."""
    import soundfile  # here, because machines that only train need not have it

    voice = FIXTURE_VOICE
    spoken: list[Floats] = []
    timed: list[tuple[float, float, str]] = []
    start_s = 0.0
    with tempfile.TemporaryDirectory() as folder:
        for sentence in FIXTURE_SENTENCES:
            samples, rate, sounds = flite_say(sentence, voice, Path(folder), {})
            if rate != SAMPLE_RATE:
                raise ValueError(f"{voice} speaks at {rate} Hz, expected {SAMPLE_RATE}")
            spoken.append(samples)
            timed += [
                (round(start_s + item.start_s, 3), round(start_s + item.end_s, 3), item.sound)
                for item in sounds
            ]
            start_s += len(samples) / SAMPLE_RATE
    soundfile.write(recording, np.concatenate(spoken), SAMPLE_RATE, subtype="PCM_16")
    described = {"made_with": f"flite -voice {voice}", "sentences": FIXTURE_SENTENCES, "sounds": timed}
    recording.with_suffix(".json").write_text(json.dumps(described) + "\n", encoding="utf8")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument("--out", type=Path, help="folder for the .npz files")
    target.add_argument("--fixture", type=Path, help="recording for the tests to write instead")
    parser.add_argument("--minutes", type=float, default=160.0, help="speech to make for training")
    parser.add_argument("--heldout-minutes", type=float, default=4.0, help="speech of the held-out voices")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    if options.fixture:
        write_fixture(options.fixture)
        return
    options.out.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        maker = ClipMaker(options.seed, Path(folder))
        heldout = make_clips(maker, options.heldout_minutes, heldout=True)
        save(options.out / f"heldout-{options.seed}.npz", pack(heldout, keep_samples=True))
        part_minutes = 10.0
        for part in range(max(1, round(options.minutes / part_minutes))):
            clips = make_clips(maker, min(part_minutes, options.minutes), heldout=False)
            name = f"train-{options.seed}-{part:03d}.npz"
            save(options.out / name, pack(clips, keep_samples=False))
            print(f"{name}: {len(clips)} clips after {time.monotonic() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main()
