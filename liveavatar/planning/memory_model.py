"""Forecast: bytes per rank and item, from shapes where they decide and from measured peaks where they do not.

"Measured" items were read from PyTorch's allocator on one H200 (torch 2.11, full-size random weights, 704x384,
compiled) and scale with the picture where it says so; docs/performance.md sets the sums beside what runs took. A run
on another card teaches what is different there, see calibration.py.

What is needed for a moment is not needed at once: a block is denoised, then decoded. Only the larger of the two counts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, lru_cache

from liveavatar.core.hardware import GpuSpec
from liveavatar.core.memory import Basis, MemoryItem
from liveavatar.core.parallel import KvPrecision, Precision
from liveavatar.planning import model_spec as model
from liveavatar.planning.model_spec import VideoSize

MEASURED_SIZE = VideoSize(704, 384)  # the size of the measured peaks below

# GB in these comments are 10**9 bytes, as the benchmark that measured them writes.
# What the decoder's causal convolutions remember: 1.298 GB, in proportion to the pixels.
DECODER_CACHE_BYTES_PER_PIXEL = 4801
# Speech encoder in bf16: 0.63 GB of weights, 0.80 GB with 10 s of speech, 1.46 GB with 60 s.
SPEECH_ENCODER_BYTES, SPEECH_BYTES_PER_S = 637_000_000, 13_800_000
SPEECH_SECONDS = 5.0  # the window that slides along the speech, and the block at hand
# Text encoder in bf16: 11.36 GB of weights, 11.65 GB while it encodes 512 tokens.
TEXT_ENCODER_PEAK_BYTES = 290_000_000

# CUDA context with the libraries' code, measured: what the driver counts beyond the allocator.
CONTEXT_BYTES = 800_000_000
# Gaps of the allocator, expandable segments: 0.4 to 0.6 of what is needed for a moment, in nine runs.
SLACK_SHARE = 0.5
COMMUNICATION_BYTES = 400_000_000  # NCCL's buffers; assumed
# Of every card, kept free so that small errors of the forecast do no harm.
MARGIN_SHARE = 0.02

_STREAM_BUFFERS = 2  # the block that runs and the one that is on its way
_BF16 = 2
# fp8: every row and head has a scale of 16 bits besides its 128 values.
_KV_BYTES: dict[KvPrecision, float] = {"bf16": 2, "fp8": 1 + 2 / 128, "int8": 1}
_INT8_TILE_TOKENS = 128  # caches of 8-bit attention are whole tiles
_TILE_OVERLAP = 64  # pixels that neighbouring tiles of the autoencoder share
SHORTEST_TILED_SIDE = 3 * _TILE_OVERLAP
_SCALE_BYTES = 4  # per output channel of an 8-bit weight

_Share = tuple[str, float, Basis]  # name, bytes and basis of an item


@dataclass(frozen=True, kw_only=True, eq=False)
class Implementation:
    """How a program caches, and what it needs for a moment at 704x384.

    Product: every step's buffer starts with the whole sink, ready to attend to; the reference picture's keys are kept
    once more, unrotated; the prompt's keys and values are kept. The published pipeline instead shares one buffer of
    2800 sink tokens among the steps and computes the prompt's keys anew each time.
    """

    sink_in_every_step: bool = True
    shared_key_tokens: int | None = None  # None: the tokens of the reference picture
    shared_values: bool = False
    text_is_kept: bool = True
    # A step above weights and caches. Its smallest part does not shrink with the picture.
    step_bytes: float = 450_000_000
    fewest_step_bytes: float = 690_000_000
    # Decoding a block beyond the memory of the stream, old and new: by latent frames per call.
    decoder_bytes: tuple[tuple[int, float], ...] = ((1, 723_000_000), (3, 2_790_000_000))


PRODUCT = Implementation()
# In eager mode: 77.9 - 76.7 GB for a step; 5.35 GB for its streaming decoder, weights included. Three latent frames at
# once: a trial of it in pure bf16, 14.4 GB with the copies that the trial made.
REFERENCE = Implementation(
    sink_in_every_step=False,
    shared_key_tokens=2800,
    shared_values=True,
    text_is_kept=False,
    step_bytes=1_200_000_000,
    fewest_step_bytes=0,
    decoder_bytes=((1, 2_500_000_000), (3, 11_550_000_000)),
)


@dataclass(kw_only=True, eq=False, slots=True)
class RankRole:
    """All that decides how much one rank needs. Never changed once it is made.

    A plan takes thousands: frozen ones take long to make, and as keys of caches they count by identity, not by their
    many fields. `layouts.rank_groups` makes each once.
    """

    size: VideoSize
    num_steps: int = 0  # denoising steps it runs; 0: it holds nothing of the transformer
    num_layers: int = model.NUM_LAYERS
    num_injections: int = len(model.INJECTED_LAYERS)
    tensor: int = 1
    precision: Precision = "bf16"
    kv_precision: KvPrecision = "bf16"
    weight_shards: int = 1  # FSDP: ranks that share the weights
    shards_on_host: bool = False
    resident_blocks: int | None = None  # None: all its layers stay on the card
    caches_on_host: bool = False
    latents_per_decode: int = 0  # 0: it does not decode
    tiled_vae: bool = False
    encodes_speech: bool = False
    encodes_text: bool = False
    is_one_of_many: bool = False
    implementation: Implementation = PRODUCT


@lru_cache(maxsize=20_000)
def forecast(role: RankRole) -> tuple[MemoryItem, ...]:
    """Return everything a rank keeps or needs for a moment on its card, other programs excepted."""
    return tuple(
        MemoryItem(name=name, num_bytes=round(num_bytes), basis=basis)
        for name, num_bytes, basis in _shares(role)
    )


@lru_cache(maxsize=20_000)
def forecast_bytes(role: RankRole) -> int:
    """Return the sum of `forecast`."""
    return sum([round(num_bytes) for _, num_bytes, _ in _shares(role)])


def corrected(items: tuple[MemoryItem, ...], factors: Mapping[str, float]) -> tuple[MemoryItem, ...]:
    """Return the items with those that were measured on this kind of card brought to what was measured."""
    return tuple(
        MemoryItem(name=item.name, num_bytes=round(item.num_bytes * factors[item.name]), basis="measured")
        if item.name in factors
        else item
        for item in items
    )


def available_bytes(gpu: GpuSpec) -> int:
    """Return what a rank may use of a card: what other programs leave, less the safety margin."""
    return max(0, int(gpu.free_bytes - MARGIN_SHARE * gpu.total_bytes))


def weight_bytes(linear_parameters: float, other_parameters: float, precision: Precision) -> float:
    """Return the bytes of weights of which only the linear layers' may be 8-bit."""
    return linear_parameters * (1 if precision == "fp8" else _BF16) + other_parameters * _BF16


@cache
def block_bytes(precision: Precision, tensor: int = 1) -> float:
    """Return the weights of one transformer block on one rank of a tensor group."""
    linear = model.BLOCK_LINEAR_PARAMETERS
    scales = (9 * model.WIDTH + model.FFN_WIDTH) * _SCALE_BYTES if precision == "fp8" else 0
    return (weight_bytes(linear, model.BLOCK_PARAMETERS - linear, precision) + scales) / tensor


@cache
def injection_bytes(precision: Precision, tensor: int = 1) -> float:
    """Return the weights of one audio injection on one rank of a tensor group."""
    linear = model.INJECTION_LINEAR_PARAMETERS
    scales = 6 * model.WIDTH * _SCALE_BYTES if precision == "fp8" else 0
    return (weight_bytes(linear, model.INJECTION_PARAMETERS - linear, precision) + scales) / tensor


def rest_bytes() -> int:
    """Return the weights outside of blocks and injections; every rank of the transformer holds them, in bf16."""
    return model.REST_PARAMETERS * _BF16


def step_cache_bytes(role: RankRole) -> float:
    """Return the keys and values of one denoising step on this rank."""
    tokens = role.size.window_tokens
    if not role.implementation.sink_in_every_step:
        tokens -= role.size.sink_tokens
    if role.kv_precision == "int8":
        tokens = math.ceil(tokens / _INT8_TILE_TOKENS) * _INT8_TILE_TOKENS
    return 2 * tokens * _values_per_token(role) * _KV_BYTES[role.kv_precision]


def shared_key_bytes(role: RankRole) -> float:
    """Return the keys of the sink that all steps of this rank share, in bf16."""
    program = role.implementation
    tokens = role.size.frame_tokens if program.shared_key_tokens is None else program.shared_key_tokens
    return tokens * (1 + program.shared_values) * _values_per_token(role) * _BF16


def _widened_bytes(size: VideoSize, tensor: int) -> float:
    """Return the keys and values of one layer that are kept in 8 bits, in bf16 while the layer attends."""
    return 2 * size.window_tokens * model.WIDTH / tensor * _BF16


def tile_share(size: VideoSize) -> float:
    """Return the part of the picture that each of the autoencoder's two tiles covers: half, and half the overlap."""
    return 0.5 + _TILE_OVERLAP / (2 * max(size.width, size.height))


def text_cache_bytes(role: RankRole) -> float:
    """Return the keys and values of the prompt on this rank, in bf16."""
    return 2 * model.TEXT_TOKENS * _values_per_token(role) * _BF16 if role.implementation.text_is_kept else 0


def text_encoder_bytes() -> float:
    """Return the text encoder while it works on a prompt, the allocator's share included."""
    return model.TEXT_ENCODER_PARAMETERS * _BF16 + (1 + SLACK_SHARE) * TEXT_ENCODER_PEAK_BYTES


def speech_encoder_bytes(seconds: float) -> float:
    """Return the speech encoder while it works on a recording of this length."""
    return SPEECH_ENCODER_BYTES + seconds * SPEECH_BYTES_PER_S


def _shares(role: RankRole) -> list[_Share]:
    kept: list[_Share] = []
    if role.num_steps:
        kept += _weight_shares(role) + _cache_shares(role)
    if role.latents_per_decode:
        kept += _decoder_shares(role)
    if role.encodes_speech:
        kept.append(("speech encoder", speech_encoder_bytes(SPEECH_SECONDS), "measured"))
    if role.encodes_text:
        weights = model.TEXT_ENCODER_PARAMETERS * _BF16
        kept.append(("text encoder", weights + TEXT_ENCODER_PEAK_BYTES, "measured"))
    kept += _momentary_shares(
        role.size,
        bool(role.num_steps),
        role.tensor,
        role.kv_precision,
        role.latents_per_decode,
        role.tiled_vae,
        role.implementation,
    )
    kept.append(("CUDA context", CONTEXT_BYTES, "measured"))
    if role.is_one_of_many:
        kept.append(("communication", COMMUNICATION_BYTES, "assumed"))
    return kept


@lru_cache(maxsize=2_000)
def _momentary_shares(
    size: VideoSize,
    denoises: bool,
    tensor: int,
    kv_precision: KvPrecision,
    latents_per_decode: int,
    tiled_vae: bool,
    program: Implementation,
) -> list[_Share]:
    """Return what is needed for a moment, and the gaps that it leaves in the allocator's memory."""
    denoising: list[_Share] = []
    if denoises:
        scaled = program.step_bytes * size.block_tokens / MEASURED_SIZE.block_tokens
        denoising.append(("activations", max(program.fewest_step_bytes, scaled), "measured"))
        if kv_precision == "fp8":
            denoising.append(("widened keys", _widened_bytes(size, tensor), "computed"))
    decoding: list[_Share] = []
    if latents_per_decode:
        work = dict(program.decoder_bytes)[latents_per_decode]
        work *= size.pixels / MEASURED_SIZE.pixels * (tile_share(size) if tiled_vae else 1)
        # What it will remember is there beside what it remembers.
        working = _decoder_cache_bytes(size, tiled_vae) + work
        decoding.append(("decoder working memory", working, "measured"))
    momentary = max(denoising, decoding, key=_sum)
    return [*momentary, ("allocator slack", SLACK_SHARE * _sum(momentary), "measured")]


def _sum(shares: list[_Share]) -> float:
    return sum(num_bytes for _, num_bytes, _ in shares)


def _weight_shares(role: RankRole) -> list[_Share]:
    one_block = block_bytes(role.precision, role.tensor)
    injections = role.num_injections * injection_bytes(role.precision, role.tensor)
    if role.weight_shards > 1:
        share = 0.0 if role.shards_on_host else role.num_layers * one_block / role.weight_shards
        return [
            ("weights", share + injections + rest_bytes(), "computed"),
            ("gathered blocks", _STREAM_BUFFERS * one_block, "computed"),
        ]
    if role.resident_blocks is not None:
        resident = role.resident_blocks * one_block + injections + rest_bytes()
        return [
            ("weights", resident, "computed"),
            ("arriving blocks", _STREAM_BUFFERS * one_block, "computed"),
        ]
    return [("weights", role.num_layers * one_block + injections + rest_bytes(), "computed")]


def _cache_shares(role: RankRole) -> list[_Share]:
    caches = role.num_steps * step_cache_bytes(role)
    if role.caches_on_host:
        # One layer attends while the next one's keys and values arrive.
        caches = step_cache_bytes(role) / role.num_layers * min(2, role.num_layers)
    shares: list[_Share] = [
        ("key-value caches", caches, "computed"),
        ("sink keys", shared_key_bytes(role), "computed"),
    ]
    if role.implementation.text_is_kept:
        shares.append(("prompt keys", text_cache_bytes(role), "computed"))
    return shares


def _decoder_shares(role: RankRole) -> list[_Share]:
    return [
        ("decoder weights", model.VAE_PARAMETERS * _BF16, "computed"),
        ("decoder cache", _decoder_cache_bytes(role.size, role.tiled_vae), "measured"),
    ]


def _decoder_cache_bytes(size: VideoSize, tiled_vae: bool) -> float:
    return DECODER_CACHE_BYTES_PER_PIXEL * size.pixels * (2 * tile_share(size) if tiled_vae else 1)


def _values_per_token(role: RankRole) -> float:
    """Return the values per token of a key (or a value) over the layers of this rank."""
    return model.WIDTH / role.tensor * role.num_layers
