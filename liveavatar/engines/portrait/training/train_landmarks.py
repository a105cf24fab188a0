"""Train the landmark net on procedural faces.

    python -m liveavatar.engines.portrait.training.train_landmarks --out landmarks.safetensors --minutes 8
    ... --start liveavatar/engines/portrait/weights/landmarks.safetensors      to go on from given weights

One process per core but one draws faces (about 45 a second each) into shared memory; this process trains on
what is there so far, with fresh distortions each time, on a GPU if there is one. Progress goes to the standard
output, and so does the error on held-out faces before and after.

The shipped weights are the mean of two trainings: 9 minutes from scratch, and 7.4 more on faces with wider open
mouths. The second alone is better on procedural faces but takes some full lower lips for tongues.
"""

from __future__ import annotations

import argparse
import math
import mmap
import multiprocessing
import os
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from liveavatar.engines.portrait.landmark_net import (
    CROP_PIXELS,
    MIRROR_ORDER,
    NOSE_TIP,
    NUM_POINTS,
    LandmarkNet,
    load_landmark_net,
)
from liveavatar.engines.portrait.training.face_distortion import distort
from liveavatar.engines.portrait.training.faces import sample_face, sample_other

SHARE_OF_OTHERS = 0.12  # pictures without a face
NUM_HELD_OUT = 512
HELD_OUT_SEED = 2**40  # far from every training seed
MOUTH, EYES = slice(0, 30), slice(30, 56)


class FaceStore:
    """Training samples in memory that forked processes share. Worker w writes rows w, w + W, w + 2W, ..."""

    def __init__(self, capacity: int, num_workers: int):
        def shared(item_bytes: int) -> mmap.mmap:
            return mmap.mmap(-1, capacity * item_bytes)  # anonymous: pages cost memory only once written

        self.num_workers = num_workers
        self.images = np.frombuffer(shared(3 * CROP_PIXELS**2), np.uint8).reshape(
            capacity, CROP_PIXELS, CROP_PIXELS, 3
        )
        self.points = np.frombuffer(shared(8 * NUM_POINTS), np.float32).reshape(capacity, NUM_POINTS, 2)
        self.is_face = np.frombuffer(shared(4), np.float32)
        self.rows_written = np.frombuffer(mmap.mmap(-1, 8 * num_workers), np.int64)

    def fill(self, worker: int, first_seed: int) -> None:
        """Draw samples into this worker's rows until they are full."""
        cv2.setNumThreads(1)
        for turn, row in enumerate(range(worker, len(self.images), self.num_workers)):
            image, points, is_face = draw_sample(first_seed + row)
            self.images[row], self.points[row], self.is_face[row] = image, points, is_face
            self.rows_written[worker] = turn + 1

    def num_ready(self) -> int:
        return int(self.rows_written.min()) * self.num_workers


def draw_sample(seed: int) -> tuple[NDArray[np.uint8], NDArray[np.float32], float]:
    """Draw one face (label 1), or now and then something else (label 0, points without meaning)."""
    if np.random.default_rng(seed).random() < SHARE_OF_OTHERS:
        return sample_other(seed), np.zeros((NUM_POINTS, 2), np.float32), 0.0
    image, points = sample_face(seed)
    return image, points, 1.0


def mirror_half(images: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """Mirror each sample with probability one half."""
    chosen = torch.rand(len(images), device=images.device) < 0.5
    order = torch.tensor(MIRROR_ORDER, device=images.device)
    mirrored = points[:, order] * torch.tensor([-1.0, 1.0], device=images.device)
    mirrored[..., 0] += CROP_PIXELS - 1
    images = torch.where(chosen[:, None, None, None], images.flip(3), images)
    return images, torch.where(chosen[:, None, None], mirrored, points)


def landmark_loss(net: LandmarkNet, images: Tensor, points: Tensor, is_face: Tensor) -> Tensor:
    """Wing loss of the visible points, a little heat map sharpness, and the face / no face entropy."""
    crops = ((images - 0.5) * 2).contiguous(memory_format=torch.channels_last)
    with torch.autocast(images.device.type, torch.bfloat16, enabled=images.device.type == "cuda"):
        found, logits, variance = net(crops)
    distance = (found - points).abs()
    wing = torch.where(distance < 4, 4 * torch.log1p(distance), distance - 4 + 4 * math.log(5)).sum(-1)
    importance = torch.ones(NUM_POINTS, device=images.device)
    importance[MOUTH], importance[EYES], importance[NOSE_TIP:] = 1.5, 1.3, 0.6
    visible = ((points > -2) & (points < CROP_PIXELS + 2)).all(-1) * is_face[:, None]
    count = visible.sum().clamp(min=1)
    placing = (wing * importance * visible).sum() / count + 0.004 * (variance * visible).sum() / count
    total: Tensor = placing + 2 * functional.binary_cross_entropy_with_logits(logits.float(), is_face)
    return total


def learning_rate(progress: float, step: int, peak: float) -> float:
    """Rise over 300 steps, then fall along a cosine; `progress` is 0..1 of the time."""
    return peak * min(1.0, step / 300) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))) + 1e-5


@torch.no_grad()
def held_out_report(net: LandmarkNet, device: str) -> str:
    """Measure point errors in crop pixels and wrong face decisions on samples never trained on."""
    samples = [draw_sample(HELD_OUT_SEED + number) for number in range(NUM_HELD_OUT)]
    images = torch.from_numpy(np.stack([sample[0] for sample in samples])).to(device)
    points = torch.from_numpy(np.stack([sample[1] for sample in samples])).to(device)
    is_face = torch.tensor([sample[2] for sample in samples], device=device) > 0
    net.eval()
    parts = [net(chunk.permute(0, 3, 1, 2).float() / 127.5 - 1) for chunk in torch.split(images, 64)]
    found, logits = torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])
    net.train()
    error = (found - points).norm(dim=-1)
    visible = ((points > 0) & (points < CROP_PIXELS)).all(-1) & is_face[:, None]

    def mean(part: slice) -> float:
        return float(error[:, part][visible[:, part]].mean())

    probability = logits.sigmoid()
    missed = float((probability[is_face] < 0.85).float().mean())
    accepted = float((probability[~is_face] > 0.85).float().mean())
    return (
        f"held out: mouth {mean(MOUTH):.3f} px, eyes {mean(EYES):.3f} px, all {mean(slice(None)):.3f} px, "
        f"faces missed {missed:.1%}, others accepted {accepted:.1%}"
    )


def train(
    store: FaceStore, net: LandmarkNet, *, minutes: float, peak_rate: float, batch: int, device: str
) -> int:
    """Train until the time is over; leave the running average of the weights in `net`. Return the steps."""
    average = {name: value.clone().float() for name, value in net.state_dict().items()}
    optimizer = torch.optim.AdamW(net.parameters(), peak_rate, weight_decay=0.02)
    rng = np.random.default_rng(0)
    started, step = time.monotonic(), 0
    while (elapsed := time.monotonic() - started) < 60 * minutes:
        rows = np.sort(rng.integers(0, store.num_ready(), batch))
        images = torch.from_numpy(store.images[rows]).to(device).permute(0, 3, 1, 2).float() / 255
        points, is_face = (torch.from_numpy(part[rows]).to(device) for part in (store.points, store.is_face))
        images, points = distort(*mirror_half(images, points))
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(elapsed / (60 * minutes), step, peak_rate)
        loss = landmark_loss(net, images, points, is_face)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(net.parameters(), 5.0)
        optimizer.step()
        step += 1
        with torch.no_grad():
            for name, value in net.state_dict().items():
                average[name].lerp_(value.float(), max(0.002, 1 / (step + 1)))
        if step % 250 == 0:
            print(
                f"{elapsed:.0f} s, step {step}, {store.num_ready()} samples, loss {loss.item():.2f}",
                flush=True,
            )
    net.load_state_dict({name: average[name].to(value.dtype) for name, value in net.state_dict().items()})
    return step


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train the landmark net on procedural faces.")
    parser.add_argument("--out", type=Path, required=True, help="safetensors file to write (fp16)")
    parser.add_argument("--minutes", type=float, required=True, help="training time")
    parser.add_argument("--start", type=Path, help="weights to go on from; default: from scratch")
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 2) - 1))
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--capacity", type=int, default=400_000, help="samples kept; 51 kB each")
    parser.add_argument("--seed", type=int, default=1, help="another seed draws other faces")
    return parser.parse_args()


def main() -> None:
    options = parse_arguments()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    store = FaceStore(options.capacity, options.workers)
    fork = multiprocessing.get_context("fork")
    workers = [
        fork.Process(target=store.fill, args=(number, options.seed * 10_000_000), daemon=True)
        for number in range(options.workers)
    ]
    for worker in workers:
        worker.start()
    net = load_landmark_net(options.start) if options.start else LandmarkNet()
    net = net.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    print(device, held_out_report(net, device), flush=True)
    while store.num_ready() < 2 * options.batch:
        time.sleep(0.2)
    peak_rate = 1e-3 if options.start else 2.5e-3
    steps = train(
        store, net, minutes=options.minutes, peak_rate=peak_rate, batch=options.batch, device=device
    )
    print(steps, "steps,", store.num_ready(), "samples;", held_out_report(net, device), flush=True)
    save_file(
        {name: value.half().contiguous().cpu() for name, value in net.state_dict().items()}, options.out
    )
    for worker in workers:
        worker.terminate()


if __name__ == "__main__":
    main()
