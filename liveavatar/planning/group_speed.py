"""How fast configurations are on one group of graphics cards, and what holds them back."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from liveavatar.core.hardware import GpuSpec
from liveavatar.core.parallel import LATENTS_PER_BLOCK, KvPrecision, Precision
from liveavatar.planning import layouts, speed_model
from liveavatar.planning.calibration import Calibration
from liveavatar.planning.layouts import Configuration
from liveavatar.planning.memory_model import RankRole
from liveavatar.planning.model_spec import WINDOW_BLOCKS, VideoSize

_LINK_IS_WORTH_A_WORD = 0.2  # of a step


class GroupSpeed:
    """The speed of a group of cards, for one picture size. Different cards all count as the slowest of them."""

    def __init__(self, gpus: Sequence[GpuSpec], size: VideoSize, calibration: Calibration) -> None:
        self._gpus, self._size = gpus, size
        self._card = _slowest(gpus)
        self._slowdown = max(calibration.time_factor(gpu) for gpu in gpus)
        self._steps: dict[tuple[Precision, KvPrecision, int], speed_model.StepSeconds] = {}
        self._busy: dict[tuple[RankRole, int], float] = {}

    @property
    def multiplies_in_8_bits(self) -> bool:
        """Whether every card of the group does."""
        return self._card.fp8_flops is not None

    @property
    def attends_in_8_bits(self) -> bool:
        """Whether there is a kernel for every card of the group: for Hopper alone."""
        return all(gpu.compute_capability[0] == 9 for gpu in self._gpus)

    def fps_limit(self, num_steps: int, precisions: Sequence[Precision], kv_precision: KvPrecision) -> float:
        """Return a speed that no plan exceeds: the work shared evenly by all cards, nothing else counted."""
        num_ranks = min(len(self._gpus), layouts.MAX_WORLD)
        steps = [
            speed_model.step_seconds(self._card, self._size, precision, kv_precision)
            for precision in precisions
        ]
        fastest = min((step.matrix + step.attention) * num_steps / num_ranks for step in steps)
        decoding = self._decode_seconds(LATENTS_PER_BLOCK, False)
        return speed_model.BLOCK_PICTURES / (max(fastest, decoding) * self._slowdown)

    def block_seconds(self, configuration: Configuration) -> float:
        """Return the time from one block to the next: that of the busiest rank."""
        num_streaming = _num_streaming(configuration)
        groups = layouts.rank_groups(configuration, self._size)
        return max([self._busy_seconds(role, num_streaming) for role, _ in groups])

    def rank_seconds(self, configuration: Configuration, roles: Sequence[RankRole]) -> tuple[float, ...]:
        """Return the work of each rank on one block."""
        num_streaming = _num_streaming(configuration)
        return tuple(self._busy_seconds(role, num_streaming) for role in roles)

    def _busy_seconds(self, role: RankRole, num_streaming: int) -> float:
        """Return the work of a rank on one block, while `num_streaming` ranks read from host memory."""
        busy = self._busy.get((role, num_streaming))
        if busy is None:
            busy = 0.0
            if role.num_steps:
                busy += role.num_steps * self._step(role, num_streaming).total
            if role.latents_per_decode:
                busy += self._decode_seconds(role.latents_per_decode, role.tiled_vae)
            busy *= self._slowdown
            self._busy[role, num_streaming] = busy
        return busy

    def _decode_seconds(self, latents_per_decode: int, tiled_vae: bool) -> float:
        return speed_model.decode_seconds(self._card, self._size, latents_per_decode, tiled_vae)

    def _step(
        self, role: RankRole, num_streaming: int, window_blocks: int = WINDOW_BLOCKS
    ) -> speed_model.RankStep:
        key = role.precision, role.kv_precision, window_blocks
        whole = self._steps.get(key)
        if whole is None:
            whole = self._steps[key] = speed_model.step_seconds(
                self._card, self._size, role.precision, role.kv_precision, window_blocks=window_blocks
            )
        return speed_model.rank_step(self._card, role, whole, num_streaming=num_streaming)

    def first_frame_seconds(self, configuration: Configuration, roles: Sequence[RankRole]) -> float:
        """Return the time from a request to its first picture: the first block passes through one rank at a time."""
        num_streaming = _num_streaming(configuration)
        denoising = sum(
            role.num_steps * self._step(role, num_streaming, window_blocks=1).total for role in roles
        )
        decoding = self._decode_seconds(configuration.latents_per_decode, configuration.tiled_vae)
        in_turn = denoising / configuration.parallel.tensor + decoding
        prefill = speed_model.prefill_seconds(self._card, self._size, configuration.precision)
        portrait = speed_model.portrait_seconds(self._card, self._size)
        transfers = sum(speed_model.beginning_transfer_seconds(self._card, role) for role in roles)
        on_the_card = (prefill + portrait + in_turn) * self._slowdown
        return on_the_card + transfers + speed_model.SPEECH_ENCODE_S + speed_model.DELIVERY_S

    def why(self, configuration: Configuration, roles: Sequence[RankRole]) -> str:
        """Return what sets the pace."""
        rank_seconds = self.rank_seconds(configuration, roles)
        slowest = max(range(len(roles)), key=lambda rank: rank_seconds[rank])
        pace = f"{rank_seconds[slowest]:.2f} s per block"
        role = roles[slowest]
        if not role.num_steps:
            return f"The decoder sets the pace with {pace}."
        name = layouts.role_name(configuration, slowest)
        words = (
            f"The card of {name} sets the pace with {pace}" if len(roles) > 1 else f"One card needs {pace}"
        )
        step = self._step(role, _num_streaming(configuration))
        if step.waits:
            source = "other cards' weights" if configuration.parallel.weights_sharded else "host memory"
            return f"{words}, waiting for {source}."
        if step.link > _LINK_IS_WORTH_A_WORD * step.total:
            return f"{words}, {step.link / step.total:.0%} of it for the link between cards."
        return f"{words}."


def _num_streaming(configuration: Configuration) -> int:
    """Return how many ranks read from host memory at a time."""
    return configuration.parallel.num_denoising_ranks if configuration.offload.is_used else 1


def _slowest(gpus: Sequence[GpuSpec]) -> GpuSpec:
    """Return a card with the worst of every rate: what a group of different cards works like."""
    fp8_rates = [gpu.fp8_flops for gpu in gpus if gpu.fp8_flops is not None]
    return dataclasses.replace(
        gpus[0],
        bf16_flops=min(gpu.bf16_flops for gpu in gpus),
        fp8_flops=min(fp8_rates) if len(fp8_rates) == len(gpus) else None,
        memory_bytes_per_s=min(gpu.memory_bytes_per_s for gpu in gpus),
        link_bytes_per_s=min(gpu.link_bytes_per_s for gpu in gpus),
        host_bytes_per_s=min(gpu.host_bytes_per_s for gpu in gpus),
    )
