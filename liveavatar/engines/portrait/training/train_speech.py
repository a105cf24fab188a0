"""Train the speech net on the files that `speech_data` made.

    python -m liveavatar.engines.portrait.training.train_speech --data DIR --out FILE.safetensors --minutes 7

uses a GPU if there is one (7 minutes are enough; on two CPU cores take 60). It prints scores on the voice
left out as it goes and also saves snapshots (FILE-1.safetensors, ...): scores on synthetic speech keep rising
after real recordings have stopped to profit, so the shipped weights are chosen among the snapshots by
`benchmarks.portrait_speech`, which looks at both.

The shipped weights are the second snapshot of a run of six minutes on one H200 over 160 minutes of speech,
without the voice `slt`. Later snapshots, and wider nets, followed unseen voices no better.

Tensor suffixes as in `speech_net`. All augmentation happens on log-mels, hence on the GPU.
"""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from liveavatar.engines.portrait.mel import NUM_MELS, POWER_FLOOR
from liveavatar.engines.portrait.motion import MOUTH_CHANNELS
from liveavatar.engines.portrait.phones import BILABIAL_CLASS
from liveavatar.engines.portrait.speech_net import MEL_PER_FRAME, SpeechNet, loud_mean, normalise_mel
from liveavatar.engines.portrait.training.speech_data import (
    FIXTURE_VOICE,
    FLITE_VOICES,
    MELS_OFFSET,
    MELS_SCALE,
)

WINDOW_FRAMES = 110  # video frames per training example: 4.4 s
BATCH = 96
PEAK_LEARNING_RATE = 2.5e-3
CHANNEL_WEIGHTS = (1.2, 2.0, 1.4, 1.4, 1.8, 1.4, 1.0, 0.8)  # jaw, open, wide, round, press, fv, teeth, tongue
CLASS_WEIGHT = 0.08
SNAPSHOTS = 5


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Clips laid end to end: bytes as `speech_data.pack` wrote them."""

    mels: Tensor  # (F, 48)
    targets: Tensor  # (T, 8)
    classes: Tensor  # (T,)


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Training examples: log-mel (B, C, F), mouth targets (B, 8, T) and classes (B, T)."""

    mel: Tensor
    targets: Tensor
    classes: Tensor


def load_corpus(files: list[Path], device: torch.device, *, left_out: str, only: bool = False) -> Corpus:
    """Read data files without the clips of one voice, or with `only` those. Raises ValueError if none remain."""
    mels, targets, classes = [], [], []
    for file in files:
        data = np.load(file)
        wanted = (data["voices"] == left_out) == only
        frames = np.repeat(wanted, data["lengths"])
        mels.append(data["mels"][np.repeat(frames, MEL_PER_FRAME)])
        targets.append(data["targets"][frames])
        classes.append(data["classes"][frames])
    if not any(map(len, classes)):
        raise ValueError("no clips to train on or to score; run speech_data first")
    parts = (torch.from_numpy(np.concatenate(arrays)).to(device) for arrays in (mels, targets, classes))
    return Corpus(**dict(zip(("mels", "targets", "classes"), parts, strict=True)))


def cut_batch(corpus: Corpus, starts_B: Tensor, num_frames: int, max_stretch: float) -> Batch:
    """Cut examples that begin at video frames `starts_B`, each played up to `max_stretch` faster or slower."""
    device = starts_B.device
    drawn_B1 = torch.rand(len(starts_B), 1, device=device) * 2 - 1
    rate_B1 = torch.exp(drawn_B1 * math.log(1 + max_stretch))
    mel_positions = torch.arange(num_frames * MEL_PER_FRAME, device=device) - 1.5
    mel = _interpolate(corpus.mels, mel_positions * rate_B1 + 1.5 + starts_B[:, None] * MEL_PER_FRAME)
    positions_BT = torch.arange(num_frames, device=device) * rate_B1 + starts_B[:, None]
    nearest_BT = positions_BT.round().long().clamp(max=len(corpus.classes) - 1)
    return Batch(
        mel=(mel / MELS_SCALE - MELS_OFFSET).transpose(1, 2),
        targets=(_interpolate(corpus.targets, positions_BT) / 100 - 1).transpose(1, 2),
        classes=corpus.classes[nearest_BT].long(),
    )


def _interpolate(rows: Tensor, positions: Tensor) -> Tensor:
    index = positions.floor().long().clamp(0, len(rows) - 2)
    part = (positions - index).clamp(0, 1)[..., None]
    return rows[index].float() * (1 - part) + rows[index + 1].float() * part


def _uniform(batch: int, low: float, high: float, device: torch.device) -> Tensor:
    return low + (high - low) * torch.rand(batch, 1, 1, device=device)


def _sometimes(batch: int, probability: float, device: torch.device) -> Tensor:
    return (torch.rand(batch, 1, 1, device=device) < probability).float()


def _random_curve(batch: int, knots: int, length: int, device: torch.device) -> Tensor:
    """Return smooth random curves (B, 1, length) of unit spread."""
    return functional.interpolate(torch.randn(batch, 1, knots, device=device), size=length, mode="linear")


def augment(mel_BCF: Tensor) -> Tensor:
    """Change speaker, articulation, room, microphone and background of a log-mel."""
    mel_BCF = change_speaker(mel_BCF)
    power_BCF = mel_BCF.exp()
    power_BCF = add_room(power_BCF)
    power_BCF = colour_microphone(power_BCF)
    power_BCF = add_noise(power_BCF)
    mel_BCF = torch.log(power_BCF + POWER_FLOOR)
    return mel_BCF + 0.15 * torch.randn_like(mel_BCF)


def change_speaker(mel_BCF: Tensor) -> Tensor:
    """Warp the vocal tract length and change how far formants stand out and how loudness varies."""
    batch, _, _ = mel_BCF.shape
    device = mel_BCF.device
    bands_1C1 = torch.arange(NUM_MELS, device=device).float()[None, :, None]
    positions = bands_1C1 * torch.exp(_uniform(batch, -0.15, 0.15, device)) + _uniform(
        batch, -0.75, 0.75, device
    )
    index = positions.floor().long().clamp(0, NUM_MELS - 2)
    part = (positions - index).clamp(0, 1)
    below = mel_BCF.gather(1, index.expand(-1, -1, mel_BCF.shape[2]))
    above = mel_BCF.gather(1, (index + 1).expand(-1, -1, mel_BCF.shape[2]))
    mel_BCF = below * (1 - part) + above * part
    level_B1F = mel_BCF.mean(dim=1, keepdim=True)
    shape_BCF = (mel_BCF - level_B1F) * _uniform(batch, 0.75, 1.15, device)
    loudest_B11 = level_B1F.amax(dim=2, keepdim=True)
    return shape_BCF + loudest_B11 + (level_B1F - loudest_B11) * _uniform(batch, 0.75, 1.15, device)


def add_room(power_BCF: Tensor) -> Tensor:
    """Smear the power over time like the tail of a room, for half of the examples."""
    batch, bands, frames = power_BCF.shape
    device = power_BCF.device
    tail = torch.arange(36, device=device).float()[None, None]
    amount = _sometimes(batch, 0.5, device) * _uniform(batch, 0, 0.28, device)
    kernel_B1K = amount * torch.exp(-tail / _uniform(batch, 1.5, 8.5, device))
    kernel_B1K[:, :, 0] = 1
    padded = functional.pad(power_BCF, (tail.shape[2] - 1, 0)).reshape(1, batch * bands, -1)
    kernels = kernel_B1K.flip(2).repeat_interleave(bands, dim=0)
    return functional.conv1d(padded, kernels, groups=batch * bands).view(batch, bands, frames)


def colour_microphone(power_BCF: Tensor) -> Tensor:
    """Apply a random equaliser, and a low pass to a quarter of the examples."""
    batch = len(power_BCF)
    device = power_BCF.device
    bands_1C1 = torch.arange(NUM_MELS, device=device).float()[None, :, None]
    equaliser = 1.3 * _random_curve(batch, 6, NUM_MELS, device).transpose(1, 2)
    beyond = (bands_1C1 - _uniform(batch, 28, 46, device)).clamp(min=0)
    return power_BCF * torch.exp(equaliser - 0.9 * beyond * _sometimes(batch, 0.25, device))


def add_noise(power_BCF: Tensor) -> Tensor:
    """Add coloured noise 3 to 50 dB below the speech, steady or swelling; one example in eight stays clean."""
    batch, _, frames = power_BCF.shape
    device = power_BCF.device
    bands_1C1 = torch.arange(NUM_MELS, device=device).float()[None, :, None]
    slope = _uniform(batch, -0.09, 0.05, device) * (bands_1C1 - NUM_MELS / 2)
    colour_BC1 = torch.exp(slope + 0.8 * _random_curve(batch, 8, NUM_MELS, device).transpose(1, 2))
    colour_BC1 = colour_BC1 / colour_BC1.mean(dim=1, keepdim=True)
    swell_B1F = torch.exp(0.9 * _random_curve(batch, 10, frames, device) * _sometimes(batch, 0.5, device))
    grain_BCF = torch.empty_like(power_BCF).exponential_() * 0.6 + 0.4
    below_speech = 10 ** (-_uniform(batch, 3, 50, device) / 10) * _sometimes(batch, 0.875, device)
    speech_level = power_BCF.mean(dim=(1, 2), keepdim=True)
    return power_BCF + speech_level * below_speech * colour_BC1 * swell_B1F * grain_BCF


def net_input(mel_BCF: Tensor) -> Tensor:
    """Normalise examples by their own loud frames, as the analysis does with a recording."""
    return normalise_mel(mel_BCF, loud_mean(mel_BCF))


def mouth_loss(mouth_BMT: Tensor, logits_BKT: Tensor, batch: Batch, weights_M1: Tensor) -> Tensor:
    """Return the error of positions, of movements from frame to frame, and of the sound classes."""
    position = functional.smooth_l1_loss(mouth_BMT, batch.targets, beta=0.1, reduction="none")
    movement = functional.smooth_l1_loss(
        mouth_BMT.diff(dim=2), batch.targets.diff(dim=2), beta=0.1, reduction="none"
    )
    classes = functional.cross_entropy(logits_BKT, batch.classes)
    return (position * weights_M1).mean() + 0.8 * (movement * weights_M1).mean() + CLASS_WEIGHT * classes


@torch.no_grad()
def describe(net: SpeechNet, heldout: Corpus) -> str:
    """Return one line of raw scores on the held-out voices."""
    net.eval()
    starts = torch.arange(0, len(heldout.classes) - 500, 500, device=heldout.classes.device)
    batch = cut_batch(heldout, starts, 500, 0.0)
    mouth, logits = net(net_input(batch.mel))
    net.train()
    scores = []
    for index, name in enumerate(MOUTH_CHANNELS):
        pair = torch.stack([mouth[:, index].flatten(), batch.targets[:, index].flatten()])
        scores.append(f"{name} {float(torch.corrcoef(pair)[0, 1]):.3f}")
    said = logits.argmax(dim=1)
    bilabial = batch.classes == BILABIAL_CLASS
    recall = float((said[bilabial] == BILABIAL_CLASS).float().mean())
    accuracy = float((said == batch.classes).float().mean())
    return f"{' '.join(scores)} | classes {accuracy:.3f} bilabial frames {recall:.3f}"


class Average:
    """An exponential moving average of the weights: what is scored and saved."""

    def __init__(self, net: SpeechNet) -> None:
        self.net = SpeechNet().to(next(net.parameters()).device)
        self.net.load_state_dict(net.state_dict())

    @torch.no_grad()
    def update(self, net: SpeechNet, step: int) -> None:
        pace = max(0.001, 1 / (step + 1))
        for mine, its in zip(self.net.state_dict().values(), net.state_dict().values(), strict=True):
            if mine.is_floating_point():
                mine.lerp_(its, pace)
            else:
                mine.copy_(its)

    def save(self, path: Path) -> None:
        state = self.net.state_dict()
        save_file(
            {
                name: (t.half() if t.is_floating_point() else t).cpu().contiguous()
                for name, t in state.items()
            },
            path,
        )


def train(data: Path, out: Path, minutes: float, left_out: str) -> None:
    """Train for `minutes` with a cosine schedule over time, printing scores and saving snapshots."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    corpus = load_corpus(sorted(data.glob("train-*.npz")), device, left_out=left_out)
    heldout = load_corpus(sorted(data.glob("heldout-*.npz")), device, left_out=left_out, only=True)
    net = SpeechNet().to(device)
    average = Average(net)
    optimiser = torch.optim.AdamW(net.parameters(), PEAK_LEARNING_RATE, weight_decay=0.02)
    weights_M1 = torch.tensor(CHANNEL_WEIGHTS, device=device)[:, None]
    last_start = len(corpus.classes) - 2 * WINDOW_FRAMES
    started = time.monotonic()
    step, saved = 0, 0
    while (done := (time.monotonic() - started) / (60 * minutes)) < 1:
        rate = PEAK_LEARNING_RATE * min(1, step / 300) * 0.5 * (1 + math.cos(math.pi * done)) + 1e-5
        for group in optimiser.param_groups:
            group["lr"] = rate
        starts_B = torch.randint(0, last_start, (BATCH,), device=device)
        batch = cut_batch(corpus, starts_B, WINDOW_FRAMES, 0.25)
        mouth_BMT, logits_BKT = net(net_input(augment(batch.mel)))
        loss = mouth_loss(mouth_BMT, logits_BKT, batch, weights_M1)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        step += 1
        average.update(net, step)
        if done * SNAPSHOTS >= saved + 1:
            saved += 1
            average.save(out.with_name(f"{out.stem}-{saved}{out.suffix}"))
            print(
                f"{step} steps, {60 * minutes * done:.0f} s, loss {loss.item():.4f}: {describe(average.net, heldout)}",
                flush=True,
            )
    average.save(out)
    print(f"{step} steps, done: {describe(average.net, heldout)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder that speech_data filled")
    parser.add_argument("--out", type=Path, required=True, help="weights file to write")
    parser.add_argument("--minutes", type=float, default=7.0)
    parser.add_argument(
        "--leave-out", default=FIXTURE_VOICE, choices=FLITE_VOICES, help="voice kept for scoring"
    )
    options = parser.parse_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    train(options.data, options.out, options.minutes, options.leave_out)


if __name__ == "__main__":
    main()
