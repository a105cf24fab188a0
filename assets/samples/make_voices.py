"""Speak and master the sample voices: our own sentences, read by free synthetic speakers.

Needs the Debian packages ``festival festvox-us-slt-hts festvox-ca-ona-hts flite`` and the Python packages
numpy, scipy and soundfile:

    python assets/samples/make_voices.py [--only welcome_slt]
"""

import argparse
import logging
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile
from scipy import signal

FloatArray = npt.NDArray[np.float64]
HERE = Path(__file__).resolve().parent
LOG = logging.getLogger("make_voices")
SAMPLE_RATE = 24_000
LOUDNESS_LUFS = -18.0
PEAK_LIMIT = 10 ** (-1.5 / 20)
SILENCE_S = 0.15


@dataclass(frozen=True, kw_only=True)
class Voice:
    """One recording: who speaks, what, and how it is mastered."""

    name: str
    program: str  # "festival" or "flite"
    speaker: str
    text: str
    tempo: float = 1.0  # above 1 is slower
    pitch_hz: float | None = None  # flite: mean pitch
    pitch_range_hz: float | None = None  # flite: standard deviation of pitch
    warmth_db: float = 1.5  # low shelf at 180 Hz
    presence_db: float = 2.0  # bell at 3.2 kHz
    top_hz: float | None = None  # low-pass; above it this speaker only buzzes
    room: float = 0.07  # reverb level


VOICES = (
    Voice(
        name="welcome_slt",
        program="festival",
        speaker="cmu_us_slt_arctic_hts",
        text="Hello, and welcome! Give me a portrait, and a voice, and I will bring them together. "
        "Sit back, press play, and let's see who has something to say today.",
        presence_db=1.0,
    ),
    Voice(
        name="product_rms",
        program="flite",
        speaker="rms",
        text="Good morning, everyone. This is our new travel mug: it keeps your coffee hot for nine hours. "
        "Take one home, and taste the difference.",
        tempo=1.03,
        pitch_range_hz=20.0,
        presence_db=0.5,
        top_hz=6100.0,
    ),
    Voice(
        name="science_awb",
        program="flite",
        speaker="awb",
        text="Did you know? The light of the sun needs eight minutes to reach us. "
        "So when you watch a sunset, the sun has, in truth, already gone.",
        tempo=1.06,
        presence_db=1.0,
    ),
    Voice(
        name="bon_dia_ona",
        program="festival",
        speaker="upc_ca_ona_hts",
        text="Bon dia! El mar es desperta a poc a poc, i la llum entra per la finestra. "
        "Avui és un bon dia per explicar una història.",
        presence_db=1.5,
    ),
)


def speak(voice: Voice, path: Path) -> None:
    """Run the synthesiser and write its raw recording to ``path``."""
    if voice.program == "flite":
        settings = {"duration_stretch": voice.tempo, "int_f0_target_mean": voice.pitch_hz}
        settings["int_f0_target_stddev"] = voice.pitch_range_hz
        options = [f for key, value in settings.items() if value for f in ("--setf", f"{key}={value}")]
        command = ["flite", "-voice", voice.speaker, *options, "-t", voice.text, "-o", str(path)]
        subprocess.run(command, check=True, timeout=60)
        return
    scheme = f"(voice_{voice.speaker}) (Parameter.set 'Duration_Stretch {voice.tempo})"
    command = ["text2wave", "-eval", scheme, "-o", str(path)]
    encoding = "iso-8859-15" if voice.speaker.startswith("upc_ca") else "utf-8"
    subprocess.run(command, input=voice.text.encode(encoding), check=True, timeout=60)


def master(samples: FloatArray, rate: int, voice: Voice) -> FloatArray:
    """Resample, trim, equalise, compress, add a small room, and set the loudness."""
    sound = signal.resample_poly(samples, SAMPLE_RATE, rate)
    sound = _trim(sound)
    if voice.top_hz:
        sound = signal.sosfilt(signal.butter(8, voice.top_hz, fs=SAMPLE_RATE, output="sos"), sound)
    sound = signal.sosfilt(signal.butter(2, 65, "highpass", fs=SAMPLE_RATE, output="sos"), sound)
    sound = _shelf(sound, 180.0, voice.warmth_db)
    sound = _bell(sound, 3200.0, voice.presence_db, 0.9)
    sound = sound + _air(sound)
    sound = _compress(sound)
    sound = np.concatenate([np.zeros(int(SILENCE_S * SAMPLE_RATE)), sound, np.zeros(int(0.32 * SAMPLE_RATE))])
    sound = sound + voice.room * _room(sound)
    sound *= 10 ** ((LOUDNESS_LUFS - loudness(sound)) / 20)
    sound = _limit(sound)
    end = np.flatnonzero(np.abs(sound) > 0.004)[-1] + int(SILENCE_S * SAMPLE_RATE)
    sound = sound[:end]
    fade = int(0.03 * SAMPLE_RATE)
    sound[-fade:] *= np.linspace(1, 0, fade)
    return np.asarray(sound)


def loudness(sound: FloatArray) -> float:
    """Return integrated loudness in LUFS, after ITU-R BS.1770 (K-weighting and both gates)."""
    weighted = _shelf(sound, 1500.0, 4.0, high=True)
    weighted = signal.sosfilt(signal.butter(2, 38, "highpass", fs=SAMPLE_RATE, output="sos"), weighted)
    block, hop = int(0.4 * SAMPLE_RATE), int(0.1 * SAMPLE_RATE)
    starts = range(0, max(1, len(weighted) - block), hop)
    power = np.array([np.mean(weighted[start : start + block] ** 2) for start in starts])
    level = -0.691 + 10 * np.log10(power + 1e-12)
    loud = power[level > -70]
    gate = -0.691 + 10 * np.log10(loud.mean()) - 10
    return float(-0.691 + 10 * np.log10(power[level > gate].mean()))


def _trim(sound: FloatArray) -> FloatArray:
    loud = np.flatnonzero(np.abs(sound) > 0.01 * np.abs(sound).max())
    margin = int(0.02 * SAMPLE_RATE)
    return sound[max(0, loud[0] - margin) : loud[-1] + margin]


def _shelf(sound: FloatArray, corner_hz: float, gain_db: float, *, high: bool = False) -> FloatArray:
    """Apply a gentle first-order shelf: the sound plus a filtered copy of itself."""
    kind = "highpass" if high else "lowpass"
    part = signal.sosfilt(signal.butter(1, corner_hz, kind, fs=SAMPLE_RATE, output="sos"), sound)
    return np.asarray(sound + (10 ** (gain_db / 20) - 1) * part)


def _bell(sound: FloatArray, centre_hz: float, gain_db: float, quality: float) -> FloatArray:
    b, a = signal.iirpeak(centre_hz, quality, fs=SAMPLE_RATE)
    return np.asarray(sound + (10 ** (gain_db / 20) - 1) * signal.lfilter(b, a, sound))


def _air(sound: FloatArray) -> FloatArray:
    """Return faint upper harmonics of the 4-7 kHz band: 16 kHz voices end at 8 kHz and sound dull without."""
    band = signal.butter(2, (4000, 7000), "bandpass", fs=SAMPLE_RATE, output="sos")
    top = signal.butter(4, 7600, "highpass", fs=SAMPLE_RATE, output="sos")
    bright = signal.sosfilt(band, sound)
    return np.asarray(0.5 * signal.sosfilt(top, np.abs(bright)))


def _compress(sound: FloatArray, ratio: float = 2.2, knee_db: float = -20.0) -> FloatArray:
    """Even the level out: 5 ms attack, 120 ms release, threshold relative to the loudest passages."""
    level = np.abs(signal.hilbert(sound))
    smooth = signal.sosfilt(signal.butter(1, 8, fs=SAMPLE_RATE, output="sos"), level)
    decibel = 20 * np.log10(smooth / np.percentile(smooth, 99) + 1e-6)
    over = np.maximum(0.0, decibel - knee_db)
    return np.asarray(sound * 10 ** (-over * (1 - 1 / ratio) / 20))


def _room(sound: FloatArray, decay_s: float = 0.16) -> FloatArray:
    """Convolve with a short, damped, repeatable noise tail: a furnished room."""
    rng = np.random.default_rng(7)
    time = np.arange(int(0.35 * SAMPLE_RATE)) / SAMPLE_RATE
    tail = rng.normal(0, 1, len(time)) * 10 ** (-3 * time / decay_s / 2) * (time > 0.008)
    tail = signal.sosfilt(signal.butter(1, (250, 4500), "bandpass", fs=SAMPLE_RATE, output="sos"), tail)
    tail /= np.sqrt((tail**2).sum())
    return np.asarray(signal.fftconvolve(sound, tail)[: len(sound)])


def _limit(sound: FloatArray) -> FloatArray:
    """Hold peaks under the ceiling with a 3 ms look-ahead gain."""
    window = int(0.006 * SAMPLE_RATE) | 1
    peak = np.maximum(np.abs(sound), 1e-9)
    gain = np.minimum(1.0, PEAK_LIMIT / peak)
    held = -signal.order_filter(-gain, np.ones(window), window - 1) if gain.min() < 1 else gain
    smooth = np.convolve(np.pad(held, window // 2, mode="edge"), np.ones(window) / window, mode="valid")
    return np.asarray(sound * smooth)


def main() -> None:
    """Make every voice and report its length, level and size."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=HERE / "voices")
    parser.add_argument("--only", action="append")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for voice in VOICES:
        if arguments.only and voice.name not in arguments.only:
            continue
        with tempfile.TemporaryDirectory() as folder:
            raw = Path(folder) / "raw.wav"
            speak(voice, raw)
            samples, rate = soundfile.read(raw, dtype="float64")
        sound = master(samples, rate, voice)
        path = arguments.out / f"{voice.name}.wav"
        soundfile.write(path, sound, SAMPLE_RATE, subtype="PCM_16")
        peak = 20 * np.log10(np.abs(sound).max())
        seconds = len(sound) / SAMPLE_RATE
        LOG.info("%s %.2f s, %.1f LUFS, peak %.1f dB", path, seconds, loudness(sound), peak)


if __name__ == "__main__":
    main()
