"""The tiny checkpoint goes through the code that loads the real one, from files to frames."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from liveavatar.conditioning.audio import PICTURE_RATE, load_audio_encoder
from liveavatar.conditioning.audio_stream import AudioFeatureStream
from liveavatar.conditioning.image import prepare_picture, size_for_area
from liveavatar.conditioning.reference import plain_sink
from liveavatar.conditioning.text import PromptEncoder
from liveavatar.loading.checkpoint import CheckpointLayout
from liveavatar.loading.lora import LoraMerge
from liveavatar.loading.transformer import load_transformer
from liveavatar.models.s2v import TokenGrid
from liveavatar.models.vae import load_vae
from liveavatar.pipeline.block_loop import stream_blocks
from liveavatar.pipeline.denoise import BlockDenoiser
from liveavatar.pipeline.randomness import SeededRandomness
from tests.s2v.test_audio_features import speech
from tests.tiny_checkpoint import write_tiny_checkpoint

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> CheckpointLayout:
    return CheckpointLayout.find(write_tiny_checkpoint(tmp_path_factory.mktemp("tiny")))


def make_video(layout: CheckpointLayout, seed: int, steps: int = 4) -> torch.Tensor:
    """Return the frames of 1.5 s of speech."""
    assert layout.lora is not None
    lora = LoraMerge(load_file(layout.lora), alpha=2.0)
    model = load_transformer(layout.folder, device=CPU, lora=lora).model
    text = PromptEncoder(layout, max_tokens=model.config["text_len"]).encode("a calm voice")
    vae = load_vae(layout.vae, device=CPU, dtype=torch.bfloat16)
    height, width = size_for_area(90, 80, 64 * 64)
    sink = plain_sink(vae, prepare_picture(Image.new("RGB", (80, 90), "teal"), height, width))
    stream = AudioFeatureStream(load_audio_encoder(layout, device=CPU, dtype=torch.bfloat16))
    blocks = [*stream.push(speech(1.5)), *stream.flush()]
    choices = SeededRandomness(seed)
    grid = TokenGrid(latent_height=height // 8, latent_width=width // 8)
    denoiser = BlockDenoiser(
        model, grid=grid, text=text, sink_distance=choices.sink_distance, num_steps=steps
    )

    def noise(clip: int) -> torch.Tensor:
        return choices.clip_noise(clip, height=height // 8, width=width // 8, like=sink.reference)

    return torch.cat(list(stream_blocks(denoiser, vae, sink, blocks, noise, num_steps=lambda: steps)), dim=2)


def test_from_files_to_frames_without_an_offset_to_the_sound(layout: CheckpointLayout) -> None:
    video = make_video(layout, seed=1, steps=2)
    assert video.shape == (1, 3, 48, 64, 64)  # 1.5 s are 37.5 pictures, in blocks of 12
    assert abs(video.shape[2] / PICTURE_RATE - 1.5) < 12 / PICTURE_RATE
    assert video.isfinite().all()
    assert video.float().std() > 0.01


@pytest.mark.parametrize("steps", [1, 4])
def test_a_seed_gives_the_same_video_at_any_number_of_steps(layout: CheckpointLayout, steps: int) -> None:
    assert torch.equal(make_video(layout, seed=3, steps=steps), make_video(layout, seed=3, steps=steps))


def test_the_random_choices_do_not_depend_on_their_order() -> None:
    one, other = SeededRandomness(5), SeededRandomness(5)
    forward = [one.sink_distance(block, step) for block in range(20) for step in range(4)]
    backward = [
        other.sink_distance(block, step) for block in reversed(range(20)) for step in reversed(range(4))
    ]
    assert forward == backward[::-1]
    assert set(forward) <= set(range(4, 31))
    assert len(set(forward)) > 10


def test_it_stays_small(layout: CheckpointLayout) -> None:
    files = [path for path in Path(layout.folder.parent).rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 10e6
