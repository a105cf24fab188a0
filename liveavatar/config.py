"""Settings of the app. The only place that reads the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from liveavatar.core.memory import GIB
from liveavatar.core.parallel import KV_PRECISIONS, PRECISIONS, KvPrecision, Precision
from liveavatar.core.plan import ExecutionPlan

Offered = TypeVar("Offered", bound=str)
_SLOW_BLOCKS = 5.0  # a block may take so many times as long as forecast before the engine counts as hung
_BLOCKS_UNDER_WAY = 3  # at a rank: the one it works on, and two that wait for it (see pipeline/links.py)


@dataclass(frozen=True, kw_only=True)
class Deadlines:
    """How long the supervisor waits for the engine, in seconds, before it ends the process and says so."""

    start_s: float = 60.0  # process start to its first word
    load_s: float = 120.0  # the built-in engine, with its warm-up
    load_model_s: float = 900.0  # the s2v engine: tens of gigabytes, perhaps from a slow disk
    first_chunk_s: float = 60.0  # job sent to first video bytes
    first_chunk_model_s: float = 300.0  # of the s2v engine, which compiles for a size it has not made before
    next_rank_s: float = 150.0  # each further rank of a layout compiles when the first block reaches it
    chunk_s: float = 30.0  # between two signs of progress; more where blocks take long
    stop_s: float = 10.0  # stop asked to the job's end, besides the blocks that are under way
    shutdown_s: float = 3.0
    heartbeat_s: float = 30.0  # silence of the whole process

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value <= 0:
                raise ValueError(f"deadline {name} must be positive, got {value}")

    def loading_s(self, plan: ExecutionPlan) -> float:
        """Return how long an engine may take to load for this plan."""
        return self.load_s if plan.model is None else self.load_model_s + self._for_further_ranks(plan)

    def first_pictures_s(self, plan: ExecutionPlan) -> float:
        """Return how long an engine may take to show something of a video of this plan."""
        if plan.model is None:
            return self.first_chunk_s
        return self.first_chunk_model_s + self._for_further_ranks(plan)

    def next_pictures_s(self, plan: ExecutionPlan) -> float:
        """Return how long an engine may take from one sign of progress to the next: that of several slow blocks.

        Layer parts bring as many blocks to their end at a time as there are parts.
        """
        at_a_time = plan.parallel.layer_parts if plan.parallel else 1
        return max(self.chunk_s, _SLOW_BLOCKS * at_a_time * (plan.block_s or 0.0))

    def stopping_s(self, plan: ExecutionPlan) -> float:
        """Return how long an engine may take to end a video of this plan in order: blocks under way are finished."""
        num_ranks = plan.parallel.num_in_turn if plan.parallel else 1
        return self.stop_s + _BLOCKS_UNDER_WAY * num_ranks * (plan.block_s or 0.0)

    def _for_further_ranks(self, plan: ExecutionPlan) -> float:
        return self.next_rank_s * (plan.parallel.num_in_turn - 1) if plan.parallel else 0.0


@dataclass(frozen=True, kw_only=True)
class AppConfig:
    """Everything an operator can set. Most fields have an environment variable LIVEAVATAR_<FIELD>."""

    data_dir: Path  # jobs, videos and the engine's log
    host: str = "127.0.0.1"
    port: int | None = None  # None: the first free one from 7860
    max_audio_s: float = 1800.0
    max_queued: int = 50
    keep_days: float = 30.0  # older videos are deleted
    keep_bytes: int = 20 * GIB  # the oldest videos go first when all together are larger
    min_free_bytes: int = GIB // 2  # no new job when the disk has less
    per_visitor: bool = False  # each visitor sees only their own videos
    ckpt_dir: Path | None = None  # the s2v model, folder Wan2.2-S2V-14B
    lora_path: Path | None = None  # liveavatar.safetensors, where it is not inside or beside ckpt_dir
    cache_dir: Path | None = None  # what the s2v engine keeps between starts; None: a folder in data_dir
    precision: Precision | None = None  # of the s2v engine's weights; None: as memory and speed suggest
    kv: KvPrecision | None = None  # of its cached keys and values; int8 is 8-bit attention, for Hopper cards
    nnodes: int = 1  # machines that make one video together, this one included
    rdzv_endpoint: str | None = None  # HOST:PORT of this machine, where the others join; None: there are none
    token_file: Path | None = None  # what the machines know each other by; None: cluster.token in data_dir
    slots: int | None = None  # ranks on this machine; None: one for each of its graphics cards
    visible_cards: str | None = None  # CUDA_VISIBLE_DEVICES: graphics cards to use; None: all
    worker_module: str = "liveavatar.worker"
    deadlines: Deadlines = field(default_factory=Deadlines)

    def __post_init__(self) -> None:
        if self.port is not None and not 0 < self.port < 65536:
            raise ValueError(f"port must be 1..65535, got {self.port}")
        if self.nnodes < 1 or (self.nnodes > 1 and not self.rdzv_endpoint):
            raise ValueError(
                f"{self.nnodes} machines need an address where they meet: --rdzv-endpoint HOST:PORT"
            )
        if self.slots is not None and self.slots < 1:
            raise ValueError(f"a machine takes one rank or more, got {self.slots}")
        for name in ("max_audio_s", "max_queued", "keep_days", "keep_bytes"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")

    @property
    def is_for_this_machine_alone(self) -> bool:
        """Whether nobody else reaches the page: only then it may be asked about folders of this machine."""
        return self.host in ("127.0.0.1", "localhost", "::1") and not self.per_visitor

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> AppConfig:
        """Read the settings. Raises ValueError that names the variable when one cannot be understood."""
        env = os.environ if environment is None else environment

        def number(name: str, default: float) -> float:
            text = env.get(name, "")
            try:
                return float(text) if text else default
            except ValueError:
                raise ValueError(f"{name} must be a number, got {text!r}") from None

        def path(name: str) -> Path | None:
            return Path(env[name]).expanduser() if env.get(name) else None

        def one_of(name: str, offered: tuple[Offered, ...]) -> Offered | None:
            text = env.get(name) or "auto"
            found = next((each for each in offered if each == text), None)
            if found is None and text != "auto":
                raise ValueError(f"{name} must be auto or one of {', '.join(offered)}, got {text!r}")
            return found

        port = env.get("GRADIO_SERVER_PORT", "")
        on_space = "SPACE_ID" in env
        return cls(
            data_dir=Path(env.get("LIVEAVATAR_DATA_DIR") or _default_data_dir(env)),
            host=env.get("GRADIO_SERVER_NAME") or ("0.0.0.0" if on_space else "127.0.0.1"),
            port=int(number("GRADIO_SERVER_PORT", 0)) if port else None,
            max_audio_s=number("LIVEAVATAR_MAX_AUDIO_S", cls.max_audio_s),
            max_queued=int(number("LIVEAVATAR_MAX_QUEUED", cls.max_queued)),
            keep_days=number("LIVEAVATAR_KEEP_DAYS", cls.keep_days),
            keep_bytes=int(number("LIVEAVATAR_KEEP_GB", cls.keep_bytes / GIB) * GIB),
            per_visitor=env.get("LIVEAVATAR_PER_VISITOR", "1" if on_space else "0") == "1",
            ckpt_dir=path("LIVEAVATAR_CKPT_DIR"),
            lora_path=path("LIVEAVATAR_LORA_PATH"),
            nnodes=int(number("LIVEAVATAR_NNODES", cls.nnodes)),
            rdzv_endpoint=env.get("LIVEAVATAR_RDZV_ENDPOINT") or None,
            token_file=path("LIVEAVATAR_TOKEN_FILE"),
            slots=int(number("LIVEAVATAR_SLOTS", 0)) or None,
            cache_dir=path("LIVEAVATAR_CACHE_DIR") or _default_cache_dir(env),
            visible_cards=env.get("CUDA_VISIBLE_DEVICES"),
            precision=one_of("LIVEAVATAR_PRECISION", PRECISIONS),
            kv=one_of("LIVEAVATAR_KV", KV_PRECISIONS),
        )


def process_rank() -> int:
    """Return the place of this engine process among its peers, as torch.distributed counts them."""
    return int(os.environ.get("RANK", "0"))


def _default_data_dir(env: Mapping[str, str]) -> Path:
    base = env.get("XDG_DATA_HOME") or str(Path(env.get("HOME", "~")).expanduser() / ".local" / "share")
    return Path(base) / "liveavatar"


def _default_cache_dir(env: Mapping[str, str]) -> Path:
    base = env.get("XDG_CACHE_HOME") or str(Path(env.get("HOME", "~")).expanduser() / ".cache")
    return Path(base) / "liveavatar"
