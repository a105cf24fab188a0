"""Frugal plans carried out: the same pictures where nothing is approximated, others where something is."""

from __future__ import annotations

import dataclasses
import gc
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from liveavatar.conditioning.text import PromptEncoder
from liveavatar.core.parallel import Offload, ParallelPlan
from liveavatar.core.plan import ExecutionPlan, ModelFiles
from liveavatar.engines.s2v.meter import Meter
from liveavatar.engines.s2v.parts import load_parts
from liveavatar.engines.s2v.video import PictureStream
from liveavatar.loading.checkpoint import CheckpointLayout
from liveavatar.models.tiled_vae import TiledVae
from liveavatar.parallel.offload import StreamedBlock
from liveavatar.pipeline.delivery import Pictures
from tests.tiny_checkpoint import write_tiny_checkpoint


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> ExecutionPlan:
    checkpoint = write_tiny_checkpoint(tmp_path_factory.mktemp("checkpoint"))
    lora = checkpoint.parent / "LiveAvatar" / "liveavatar.safetensors"
    files = ModelFiles(checkpoint=str(checkpoint), lora=str(lora), cache=str(checkpoint.parent / "cache"))
    return ExecutionPlan(
        engine="s2v", width=64, height=64, model=files, parallel=ParallelPlan(step_split=(2,))
    )


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny convolutions on several threads mostly wait for each other."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


def pictures_of(plan: ExecutionPlan) -> Pictures:
    """Return two blocks of a video made as the engine makes it."""
    parts = load_parts(plan)
    generator = torch.Generator().manual_seed(0)
    stream = PictureStream(
        parts.transformer,
        parts.vae,
        plan,
        reference=torch.rand(3, plan.height, plan.width, generator=generator) * 2 - 1,
        text=parts.encode_prompt("she smiles", on_processor=True),
        speech=torch.randn(2, 1, 25, parts.audio_encoder.num_channels, 12, generator=generator),
        seed=0,
        meter=Meter(torch.device("cpu")),
        host_caches=parts.host_caches if plan.offload.caches else None,
    )
    with torch.inference_mode():
        return np.concatenate(list(stream))


def test_host_memory_changes_no_picture_and_8_bit_caches_change_them_little(plain: ExecutionPlan) -> None:
    expected = pictures_of(plain)
    on_host = dataclasses.replace(plain, offload=Offload(resident_blocks=1, caches=True))
    assert np.array_equal(pictures_of(on_host), expected)
    narrow = pictures_of(dataclasses.replace(on_host, kv_precision="fp8"))
    difference = np.abs(narrow.astype(int) - expected)
    assert difference.max() > 0
    assert difference.mean() < 1  # of 255 levels


def test_a_plan_is_loaded_as_it_says(plain: ExecutionPlan) -> None:
    plan = dataclasses.replace(plain, precision="fp8", tiled_vae=True, offload=Offload(resident_blocks=1))
    parts = load_parts(plan)
    assert sum(not isinstance(block, StreamedBlock) for block in parts.transformer.blocks) == 1
    assert parts.precision == "fp8"
    assert isinstance(parts.vae, TiledVae)
    latents, _ = parts.vae.encode_next(torch.zeros(1, 3, 1, 192, 192), None)
    assert latents.shape == (1, 16, 1, 24, 24)


def test_plans_that_are_loaded_differently_are_different_engines(plain: ExecutionPlan) -> None:
    for same in ({"kv_precision": "fp8"}, {"latents_per_decode": 1}, {"offload": Offload(caches=True)}):
        assert plain.same_engine(dataclasses.replace(plain, **same))
    for other in ({"tiled_vae": True}, {"offload": Offload(resident_blocks=1)}, {"precision": "fp8"}):
        assert not plain.same_engine(dataclasses.replace(plain, **other))


def test_a_released_text_encoder_leaves_nothing_behind(plain: ExecutionPlan) -> None:
    assert plain.model is not None
    prompts = PromptEncoder(CheckpointLayout.find(Path(plain.model.checkpoint)), max_tokens=24)
    prompts.encode("she smiles")
    assert prompts._encoder is not None
    weights = [weakref.ref(parameter) for parameter in prompts._encoder.parameters()]
    gc.disable()  # nobody else is to collect them
    try:
        prompts.release()
        assert not any(reference() is not None for reference in weights)
    finally:
        gc.enable()


def test_weights_shrink_for_good_while_the_engine_runs(plain: ExecutionPlan) -> None:
    parts = load_parts(plain)
    assert parts.as_loaded(plain) == plain
    smaller = dataclasses.replace(plain, precision="fp8", offload=Offload(resident_blocks=1))
    parts.shrink_weights(smaller)
    assert parts.as_loaded(plain) == smaller
    parts.shrink_weights(plain)
    assert parts.as_loaded(plain) == smaller, "there is no way back"


def test_the_decoder_takes_up_tiles_and_lays_them_down(plain: ExecutionPlan) -> None:
    parts = load_parts(plain)
    assert parts.vae_for(plain) is parts.vae
    tiled = parts.vae_for(dataclasses.replace(plain, tiled_vae=True))
    assert isinstance(tiled, TiledVae)
    assert tiled.network is parts.vae.network, "weights are shared"
    whole = dataclasses.replace(parts, vae=tiled).vae_for(plain)
    assert (whole.is_tiled, whole.network) == (False, parts.vae.network)
