"""How long a block takes on a rank: measured on one H200, scaled by size, by card and by how the work is shared.

The measured rows are one denoising step of this engine at 704x384 with a full window, compiled, sustained until the
card was at its power limit (700 W); see docs/performance.md. On another card, matrix products
scale with its bf16 or fp8 rate, attention with its bf16 rate (8-bit attention with fp8), the rest with its memory
bandwidth; time between kernels stays. Attention on cards before and after Hopper reaches a larger share of its peak
than on Hopper, so the prediction is on the slow side there.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from liveavatar.core.hardware import GpuSpec
from liveavatar.core.parallel import KvPrecision, Precision
from liveavatar.planning import memory_model, model_spec
from liveavatar.planning.memory_model import MEASURED_SIZE, RankRole
from liveavatar.planning.model_spec import StepWork, VideoSize

FPS = 25
BLOCK_PICTURES = model_spec.PICTURES_PER_BLOCK

# Rates of the card the rows below were measured on.
_H200_BF16, _H200_FP8, _H200_MEMORY = 989e12, 1979e12, 4.8e12


@dataclass(frozen=True, kw_only=True)
class StepSeconds:
    """Where the time of one step goes."""

    matrix: float
    attention: float
    memory: float  # norms, rotations, quantising: bound by memory bandwidth
    gaps: float  # between kernels

    @property
    def total(self) -> float:
        """Return the length of the step."""
        return self.matrix + self.attention + self.memory + self.gaps


# As the kernels' profile shares them out. Runs of minutes on three cards took 148 to 151 ms in fp8, 140 with 8-bit
# attention, 200 in bf16.
MEASURED_STEPS: dict[tuple[Precision, bool], StepSeconds] = {
    ("fp8", False): StepSeconds(matrix=0.0580, attention=0.0670, memory=0.0265, gaps=0.0019),
    ("fp8", True): StepSeconds(matrix=0.0555, attention=0.0600, memory=0.0236, gaps=0.0019),
    ("bf16", False): StepSeconds(matrix=0.1112, attention=0.0670, memory=0.0200, gaps=0.0019),
    ("bf16", True): StepSeconds(matrix=0.1112, attention=0.0600, memory=0.0180, gaps=0.0019),
}

# Decoding a block, by latent frames per call, as (convolutions, bound by memory): 89 and 96 ms. The parts are those of
# a trial that made 27.4 TFLOP of convolutions in 39 ms.
MEASURED_DECODE = {3: (0.039, 0.050), 1: (0.042, 0.054)}
PORTRAIT_ENCODE_S = 0.38  # 73 pictures through the encoder, half of it convolutions
SPEECH_ENCODE_S = 0.014
DELIVERY_S = 0.05  # H.264, fragments, page; assumed

COLLECTIVE_S = 20e-6  # latency of one collective; assumed
REDUCTIONS_PER_LAYER = 3  # after self-attention, cross-attention and feed-forward
COLLECTIVES_PER_LAYER = 7  # those, and the norms of queries and keys, which span all heads
HOST_MEMORY_BYTES_PER_S = 150e9  # all cards together; assumed
_IMPERFECT_OVERLAP = 0.03  # of a transfer beside the work; as three plans on an H200 took


@lru_cache(maxsize=100_000)
def step_seconds(
    gpu: GpuSpec,
    size: VideoSize,
    precision: Precision,
    kv_precision: KvPrecision,
    *,
    window_blocks: int = model_spec.WINDOW_BLOCKS,
) -> StepSeconds:
    """Return one whole step on one card."""
    work = model_spec.step_work(size, window_blocks=window_blocks)
    reference = model_spec.step_work(MEASURED_SIZE)
    tokens = size.block_tokens / MEASURED_SIZE.block_tokens
    step = _scaled(gpu, precision, kv_precision == "int8", work, reference, tokens)
    if kv_precision != "fp8":
        return step
    # Stored in 8 bits, widened for attention: every value of the window is read once and written twice as wide.
    keys = size.sink_tokens + window_blocks * size.block_tokens
    widened = 3 * 2 * keys * model_spec.WIDTH * model_spec.NUM_LAYERS
    return StepSeconds(
        matrix=step.matrix,
        attention=step.attention,
        memory=step.memory + widened / (gpu.memory_bytes_per_s * 0.88),  # 4.23 of 4.8 TB/s were reached
        gaps=step.gaps,
    )


@lru_cache(maxsize=10_000)
def prefill_seconds(gpu: GpuSpec, size: VideoSize, precision: Precision) -> float:
    """Return the time to compute the sink on one card."""
    tokens = size.sink_tokens / MEASURED_SIZE.block_tokens
    work, reference = model_spec.prefill_flops(size), model_spec.step_work(MEASURED_SIZE)
    return _scaled(gpu, precision, False, work, reference, tokens).total


@lru_cache(maxsize=10_000)
def decode_seconds(gpu: GpuSpec, size: VideoSize, latents_per_call: int, tiled: bool = False) -> float:
    """Return the time to decode one block. What its two tiles share is decoded twice."""
    convolutions, memory = MEASURED_DECODE[latents_per_call]
    pixels = size.pixels / MEASURED_SIZE.pixels * (2 * memory_model.tile_share(size) if tiled else 1)
    return pixels * (
        convolutions * _H200_BF16 / gpu.bf16_flops + memory * _H200_MEMORY / gpu.memory_bytes_per_s
    )


def portrait_seconds(gpu: GpuSpec, size: VideoSize) -> float:
    """Return the time to turn the portrait into the latents of the sink, once per portrait."""
    pixels = size.pixels / MEASURED_SIZE.pixels
    slower = (_H200_BF16 / gpu.bf16_flops + _H200_MEMORY / gpu.memory_bytes_per_s) / 2
    return PORTRAIT_ENCODE_S * pixels * slower


@dataclass(frozen=True, kw_only=True)
class RankStep:
    """One step on one rank, in seconds: its own work, waiting for other cards, waiting for host memory."""

    compute: float
    link: float = 0.0  # in line with the work
    beside: float = 0.0  # transfers that run beside the work

    @property
    def total(self) -> float:
        """Return the length of the step on this rank: the longer of both, and some of the shorter."""
        work = self.compute + self.link
        return max(work, self.beside) + _IMPERFECT_OVERLAP * min(work, self.beside)

    @property
    def waits(self) -> bool:
        """Whether transfers take longer than the work."""
        return self.beside > self.compute + self.link


def rank_step(gpu: GpuSpec, role: RankRole, whole: StepSeconds, *, num_streaming: int = 1) -> RankStep:
    """Return a rank's share of the step `whole`. `num_streaming` ranks read from host memory at a time."""
    part = role.num_layers / model_spec.NUM_LAYERS
    shared = whole.matrix + whole.attention + whole.memory / 2
    compute = part * (shared / role.tensor + whole.memory / 2 + whole.gaps)
    return RankStep(
        compute=compute,
        link=_link_seconds(gpu, role),
        beside=_transfer_seconds(gpu, role, num_streaming),
    )


def _link_seconds(gpu: GpuSpec, role: RankRole) -> float:
    hidden_values = role.size.block_tokens * model_spec.WIDTH
    seconds = 0.0
    if role.tensor > 1:
        reductions = role.num_layers * REDUCTIONS_PER_LAYER + role.num_injections
        moved = 2 * (role.tensor - 1) / role.tensor * hidden_values * 2 * reductions
        seconds += moved / gpu.link_bytes_per_s + role.num_layers * COLLECTIVES_PER_LAYER * COLLECTIVE_S
    if role.num_layers < model_spec.NUM_LAYERS:
        seconds += hidden_values * 4 / gpu.link_bytes_per_s  # tokens in float32 to the next part
    return seconds


def _transfer_seconds(gpu: GpuSpec, role: RankRole, num_streaming: int) -> float:
    host_rate = min(gpu.host_bytes_per_s, HOST_MEMORY_BYTES_PER_S / num_streaming)
    from_host = 0.0
    if role.resident_blocks is not None:
        block = memory_model.block_bytes(role.precision, role.tensor)
        from_host += (role.num_layers - role.resident_blocks) * block
    if role.caches_on_host:
        returned = role.size.block_tokens / role.size.window_tokens  # the rows of the new block go back
        from_host += memory_model.step_cache_bytes(role) * (1 + returned)
    gather = 0.0
    if role.weight_shards > 1:
        layers = role.num_layers * memory_model.block_bytes(role.precision)
        layers += role.num_injections * memory_model.injection_bytes(role.precision)
        gather = layers * (role.weight_shards - 1) / role.weight_shards / gpu.link_bytes_per_s
        from_host += layers / role.weight_shards if role.shards_on_host else 0
    return max(from_host / host_rate, gather)


def beginning_transfer_seconds(gpu: GpuSpec, role: RankRole) -> float:
    """Return what host memory adds to the beginning of a video: prompt and sink pass through all streamed blocks,
    and the sink goes into every cache there.
    """
    num_bytes = 0.0
    if role.resident_blocks is not None:
        block = memory_model.block_bytes(role.precision, role.tensor)
        num_bytes += 2 * (role.num_layers - role.resident_blocks) * block
    if role.caches_on_host:
        sink = role.size.sink_tokens / role.size.window_tokens
        num_bytes += role.num_steps * memory_model.step_cache_bytes(role) * sink
    return num_bytes / gpu.host_bytes_per_s


def _scaled(
    gpu: GpuSpec,
    precision: Precision,
    attends_in_8_bits: bool,
    work: StepWork,
    reference: StepWork,
    tokens: float,
) -> StepSeconds:
    measured = MEASURED_STEPS[precision, attends_in_8_bits]
    fp8_ratio = _H200_FP8 / gpu.fp8_flops if gpu.fp8_flops else 0.0
    bf16_ratio = _H200_BF16 / gpu.bf16_flops
    if (precision == "fp8" or attends_in_8_bits) and not fp8_ratio:
        raise ValueError(f"{gpu.name} cannot multiply in 8 bits")
    return StepSeconds(
        matrix=measured.matrix
        * (fp8_ratio if precision == "fp8" else bf16_ratio)
        * work.matrix_flops
        / reference.matrix_flops,
        attention=measured.attention
        * (fp8_ratio if attends_in_8_bits else bf16_ratio)
        * work.attention_flops
        / reference.attention_flops,
        memory=measured.memory * _H200_MEMORY / gpu.memory_bytes_per_s * tokens,
        gaps=measured.gaps,
    )
