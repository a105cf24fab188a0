"""Blocks in a row: the ring, the sink, positions and sizes."""

from __future__ import annotations

import pytest
import torch

from liveavatar.models.s2v import TokenGrid, routing_masks
from liveavatar.models.s2v.rope import reference_position, sink_jitter
from tests.parity.golden import relative_error
from tests.s2v.tiny import SMALL_GRID, TinyStream, tiny_model

NEAR_EXACT = 1e-5


def test_window_holds_the_latest_blocks_only() -> None:
    model = tiny_model(num_layers=1)  # in deeper layers keys carry what earlier blocks saw
    stream, late_stream = TinyStream(model), TinyStream(model)
    late_stream.latents = stream.latents
    stream.latents = -stream.latents
    for block in range(4):
        stream.run(block)
    stream.latents = -stream.latents
    for block in range(4, 8):
        stream.run(block)
        late_stream.run(block)
    assert relative_error(late_stream.run(8), stream.run(8)) < NEAR_EXACT


def test_a_block_depends_on_the_blocks_before_it() -> None:
    model = tiny_model()
    stream, other = TinyStream(model), TinyStream(model)
    stream.run(0)
    other.latents = -other.latents
    other.run(0)
    other.latents = -other.latents
    assert relative_error(stream.run(1), other.run(1)) > 1e-3


def test_steps_have_windows_of_their_own_and_one_sink() -> None:
    model = tiny_model()
    stream = TinyStream(model)
    caches = model.allocate_caches(SMALL_GRID, 3)
    model.prefill(stream.latents_of(1), stream.latents_of(19), stream.text, caches)
    sink = SMALL_GRID.sink_tokens
    first, second, _ = (cache.layers[1] for cache in caches)
    assert first.reference_k_SHK is second.reference_k_SHK
    assert torch.equal(first.k_THK[:sink], second.k_THK[:sink])
    assert first.k_THK.data_ptr() != second.k_THK.data_ptr()


def test_refreshing_the_sink_keeps_the_blocks() -> None:
    stream = TinyStream(tiny_model())
    stream.run(0)
    sink = SMALL_GRID.sink_tokens
    before = stream.cache.layers[1].k_THK.clone()
    stream.refresh_sink()
    after = stream.cache.layers[1].k_THK
    assert torch.equal(before[sink:], after[sink:])
    assert not torch.equal(before[:sink], after[:sink])


def test_denoising_a_block_again_gives_the_same() -> None:
    stream = TinyStream(tiny_model())
    stream.run(0)
    assert torch.equal(stream.run(1), stream.run(1))


@pytest.mark.parametrize("block_index", [15_000, 10**7])
def test_positions_have_no_end(block_index: int) -> None:
    stream = TinyStream(tiny_model())
    velocity = stream.run(block_index)
    assert torch.isfinite(velocity).all()
    assert relative_error(velocity, stream.run(0)) > 0


def test_sizes_above_288000_pixels() -> None:
    grid = TokenGrid(latent_height=64, latent_width=72)  # 512 x 576 = 294,912
    stream = TinyStream(tiny_model(num_layers=1), grid, capacity_blocks=1)
    assert stream.run(0).shape == (16, 3, 64, 72)


@pytest.mark.parametrize("capacity_blocks", [1, 2, 5])
def test_any_number_of_blocks_per_clip(capacity_blocks: int) -> None:
    stream = TinyStream(tiny_model(), capacity_blocks=capacity_blocks)
    for block in range(2 * capacity_blocks + 1):
        assert torch.isfinite(stream.run(block)).all()


def test_odd_latents_are_refused() -> None:
    with pytest.raises(ValueError, match="2x2 patches"):
        TokenGrid(latent_height=45, latent_width=80)


def test_too_long_a_prompt_is_refused() -> None:
    with pytest.raises(ValueError, match="7 text tokens"):
        tiny_model().encode_text(torch.zeros(7, 8))


def test_reference_stays_ahead_of_the_block() -> None:
    assert reference_position(0, 30) == 30
    assert reference_position(20, 4) == 30
    assert reference_position(20, 11) == 31
    assert reference_position(300_000, 4) == 300_004
    with pytest.raises(ValueError, match="jitter 31"):
        reference_position(0, 31)


def test_jitter_is_a_function_of_seed_block_and_step() -> None:
    drawn = [sink_jitter(seed=420, block_index=block, step=step) for block in range(500) for step in range(4)]
    again = [sink_jitter(seed=420, block_index=block, step=step) for block in range(500) for step in range(4)]
    other = [sink_jitter(seed=421, block_index=block, step=step) for block in range(500) for step in range(4)]
    assert drawn == again != other
    assert set(drawn) == set(range(4, 31))
    assert abs(sum(drawn) / len(drawn) - 17) < 1


def test_jitter_matters_to_the_result() -> None:
    stream = TinyStream(tiny_model())
    near, far = stream.run(20, jitter=4), stream.run(20, jitter=30)
    assert relative_error(near, far) > 1e-4


def test_actors_who_share_a_voice_everywhere_add_up() -> None:
    """Two actors with one voice, masks that split the picture: the same as one actor everywhere."""
    model = tiny_model()
    stream = TinyStream(model)
    alone = stream.run(0)
    left = torch.zeros(1, 3, SMALL_GRID.rows, SMALL_GRID.columns, 1)
    left[..., : SMALL_GRID.columns // 2, :] = 1
    speech = torch.randn(1, 25, 8, 12, generator=torch.Generator().manual_seed(5))
    stream.audio = model.encode_audio(speech)
    alone = stream.run(0)
    both = model(
        stream.latents,
        stream.time,
        stream.text,
        model.encode_audio(speech.expand(2, -1, -1, -1)),
        stream.cache.locate(0, 20),
        stream.cache,
        actor_masks_AFS1=routing_masks(torch.cat([left, 1 - left])),
    )
    assert relative_error(both, alone) < NEAR_EXACT


def test_no_pose_equals_a_pose_of_zeros() -> None:
    stream = TinyStream(tiny_model())
    position = stream.cache.locate(0, 20)
    arguments = (stream.latents, stream.time, stream.text, stream.audio, position, stream.cache)
    with_zeros = stream.model(*arguments, pose_CFhw=torch.zeros_like(stream.latents))
    assert relative_error(stream.model(*arguments), with_zeros) < NEAR_EXACT


def test_several_actors_without_masks_are_refused() -> None:
    stream = TinyStream(tiny_model())
    stream.audio = stream.model.encode_audio(torch.randn(2, 25, 8, 12))
    with pytest.raises(ValueError, match="2 actors need masks"):
        stream.run(0)


def test_speech_enters_after_the_named_blocks_only() -> None:
    model = tiny_model(num_layers=12, audio_inject_layers=[1])
    assert set(TinyStream(model).audio) == {1}
