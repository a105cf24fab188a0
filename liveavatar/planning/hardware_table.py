"""Graphics cards the planner knows by name, with the source of each number.

Arithmetic: dense, sums in float32. Where a source gives only the plain float32 rate, tensor units reach 4 (bf16) or 8
(fp8) times as much; on GeForce cards half of that, because they sum in float32 at half the rate. Arithmetic and
memory bandwidth come from `rates_source`, a copy of the maker's numbers. Memory: what a program sees
(`total capacity` in PyTorch's messages), seen in public reports where `memory_source` says so, else assumed as the
printed size less what the driver and error correction take on cards of the same kind. Links: assumed as the share of
the data sheet's rate that large transfers reach (80 % of NVLink, 12 GB/s through host memory on GeForce cards, whose
driver offers no direct transfer; 20 and 40 GB/s over PCI Express 4 and 5 with direct transfer, 25 and 54 GB/s from
host memory). What runs on a machine measure corrects its predictions, see calibration.py.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass

from liveavatar.core.hardware import GpuSpec
from liveavatar.core.memory import GIB

_T, _G = 1e12, 1e9
_NO_DIRECT_TRANSFER, _PCIE4, _PCIE5 = 12 * _G, 20 * _G, 40 * _G
_HOST_PCIE4, _HOST_PCIE5 = 25 * _G, 54 * _G  # over PCIe 5, an H200 was measured: 54.7 from pinned memory
_NVLINK_SHARE = 0.8
_MEMORY = re.compile(r"(?<![a-z0-9.])(\d{1,4}(?:\.\d+)?)\s*(?:g|gb|gib)(?![a-z0-9])", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class TableRow:
    """One card: its numbers, the names it goes by, and where its memory size is known from."""

    spec: GpuSpec
    aliases: tuple[
        str, ...
    ]  # what people and drivers write, without memory sizes, normalised by `_normalise`
    printed_gb: int
    memory_source: str  # of the size a program sees
    rates_source: str  # of arithmetic and memory bandwidth


def _card(
    name: str,
    *aliases: str,
    gb: int,
    gib: float,
    bf16: float,
    fp8: float | None,
    gb_s: float,
    link: float,
    host: float,
    sm: tuple[int, int],
    rates_source: str,
    memory_source: str = "assumed",
) -> TableRow:
    """`gb` as printed, `gib` as seen, `bf16` and `fp8` in TFLOP/s, `gb_s` memory GB/s, links in bytes/s."""
    spec = GpuSpec(
        name=name,
        total_bytes=int(gib * GIB),
        bf16_flops=bf16 * _T,
        fp8_flops=None if fp8 is None else fp8 * _T,
        memory_bytes_per_s=gb_s * _G,
        link_bytes_per_s=link,
        host_bytes_per_s=host,
        compute_capability=sm,
    )
    return TableRow(
        spec=spec,
        aliases=(_normalise(_MEMORY.sub(" ", name)), *aliases),
        printed_gb=gb,
        memory_source=memory_source,
        rates_source=rates_source,
    )


def _nvlink(both_directions_gb_s: float) -> float:
    return both_directions_gb_s / 2 * _NVLINK_SHARE * _G


def printed_memory(name: str) -> float | None:
    """Return the gigabytes in "H100-80G" or "A100 40GB PCIe", None where there are none."""
    match = _MEMORY.search(name)
    return float(match[1]) if match else None


def _normalise(name: str) -> str:
    """Reduce "NVIDIA GeForce RTX 4090" and "rtx-4090" to "4090"."""
    words = re.sub(r"[^a-z0-9]+", " ", name.lower()).split()
    dropped = {"nvidia", "geforce", "rtx", "generation", "gpu", "tesla", "edition", "workstation", "server"}
    return "".join(word for word in words if word not in dropped).removeprefix("rtx")


# Of two cards that share an alias the first one is meant: "H100" is the SXM card, "A100" the one with 80 GB.
CARDS: tuple[TableRow, ...] = (
    _card(
        "RTX 3090", gb=24, gib=23.7, bf16=71.2, fp8=None, gb_s=936, link=_NO_DIRECT_TRANSFER,
        host=_HOST_PCIE4, sm=(8, 6),
        rates_source="https://holynerdvana.blogspot.com/2022/10/nvidia-geforce-rtx-3090-specifications.html",
        memory_source="https://github.com/GaoLii/DSP/issues/10",
    ),
    _card(
        "RTX 4090", gb=24, gib=23.64, bf16=165.2, fp8=330.3, gb_s=1008, link=_NO_DIRECT_TRANSFER,
        host=_HOST_PCIE4, sm=(8, 9),
        rates_source="https://waredb.com/processor/nvidia-geforce-rtx-4090",
        memory_source="https://github.com/ali-vilab/VGen/issues/104",
    ),
    _card(
        "RTX 4090D", gb=24, gib=23.64, bf16=147.1, fp8=294.2, gb_s=1008, link=_NO_DIRECT_TRANSFER,
        host=_HOST_PCIE4, sm=(8, 9),
        rates_source="https://fpsbench.com/compare/gpu/nvidia-geforce-rtx-4090-d-vs-nvidia-geforce-rtx-5090",
    ),
    _card(
        "A10", gb=24, gib=21.99, bf16=125, fp8=None, gb_s=600, link=_PCIE4, host=_HOST_PCIE4, sm=(8, 6),
        rates_source="https://sysrqmts.com/ru/gpus/compare/nvidia-a10-pcie-vs-nvidia-quadro-rtx-4000",
        memory_source="https://github.com/zai-org/CogVLM/issues/236",
    ),
    _card(
        "RTX 5090", gb=32, gib=31.36, bf16=209.5, fp8=419, gb_s=1792, link=_PCIE4, host=_HOST_PCIE5,
        sm=(12, 0),
        rates_source="https://fpsbench.com/compare/gpu/nvidia-geforce-rtx-4090-d-vs-nvidia-geforce-rtx-5090",
        memory_source="https://github.com/TrajectoryCrafter/TrajectoryCrafter/issues/20",
    ),
    _card(
        "RTX 6000 Ada", "6000ada", gb=48, gib=44.4, bf16=364.2, fp8=728.5, gb_s=960, link=_PCIE4,
        host=_HOST_PCIE4, sm=(8, 9),
        rates_source="https://www.grafikkarten.com/de/news/nvidia-rtx-6000-grafikkarte-der-ada-generation",
        memory_source="https://github.com/DINGYANB/MTVCrafter/issues/21",
    ),
    _card(
        "L40", gb=48, gib=44.4, bf16=181, fp8=362, gb_s=864, link=_PCIE4, host=_HOST_PCIE4, sm=(8, 9),
        rates_source="https://www.mullet.se/product.html?product_id=355414",
        memory_source="https://github.com/QwenLM/Qwen3-VL/issues/2097",
    ),
    _card(
        "L40S", gb=48, gib=44.4, bf16=362, fp8=733, gb_s=864, link=_PCIE4, host=_HOST_PCIE4, sm=(8, 9),
        rates_source="https://www.mullet.se/product.html?product_id=355414",
    ),
    _card(
        "A100 80 GB", "a100sxm", "a100sxm4", gb=80, gib=79.1, bf16=312, fp8=None, gb_s=2039, link=_nvlink(600),
        host=_HOST_PCIE4, sm=(8, 0),
        rates_source="https://glennklockwood.com/garden/processors/A100",
        memory_source="https://github.com/lianqi1008/Control-GIC/issues/6",
    ),
    _card(
        "A100 80 GB PCIe", gb=80, gib=79.1, bf16=312, fp8=None, gb_s=1935, link=_PCIE4, host=_HOST_PCIE4,
        sm=(8, 0), rates_source="https://www.thundercompute.com/blog/nvidia-a100-specs-full-guide",
    ),
    _card(
        "A100 40 GB", "a100sxm", "a100sxm4", gb=40, gib=39.49, bf16=312, fp8=None, gb_s=1555,
        link=_nvlink(600), host=_HOST_PCIE4, sm=(8, 0),
        rates_source="https://glennklockwood.com/garden/processors/A100",
        memory_source="https://github.com/TianheWu/CoSeR/issues/10",
    ),
    _card(
        "A100 40 GB PCIe", gb=40, gib=39.49, bf16=312, fp8=None, gb_s=1555, link=_PCIE4, host=_HOST_PCIE4,
        sm=(8, 0), rates_source="https://www.thundercompute.com/blog/nvidia-a100-specs-full-guide",
    ),
    _card(
        "H100 SXM", "h100", "h100hbm3", "h100sxm5", gb=80, gib=79.1, bf16=989, fp8=1979, gb_s=3350,
        link=_nvlink(900), host=_HOST_PCIE5, sm=(9, 0),
        rates_source="https://hmc-tech.com/gpu/nvidia-gb200-vs-nvidia-h100-sxm",
        memory_source="https://github.com/vllm-project/vllm/issues/27508",
    ),
    _card(
        "H100 PCIe", gb=80, gib=79.1, bf16=756, fp8=1513, gb_s=2000, link=_PCIE5, host=_HOST_PCIE5, sm=(9, 0),
        rates_source="https://hmc-tech.com/gpu/nvidia-h100-vs-nvidia-h200-sxm-vs-nvidia-gb200",
    ),
    _card(
        "H800", "h800sxm", gb=80, gib=79.1, bf16=989, fp8=1979, gb_s=3350, link=_nvlink(400),
        host=_HOST_PCIE5, sm=(9, 0),
        rates_source="https://www.philisun.com/technical-analysis/"
        "nvidia-h800-vs-h100-a-technical-deep-dive-into-politically-defined-ai-chips/",
    ),
    _card(
        "RTX PRO 6000", "pro6000blackwell", "6000blackwell", "6000pro", gb=96, gib=94.97, bf16=503.8,
        fp8=1007, gb_s=1792, link=_PCIE5, host=_HOST_PCIE5, sm=(12, 0),
        rates_source="https://hmc-tech.com/gpu/nvidia-rtx-pro-6000-blackwell-vs-amd-radeon-pro-duo-polaris",
        memory_source="https://github.com/antirez/ds4/issues/431",
    ),
    _card(
        "GH200", gb=96, gib=94.5, bf16=989, fp8=1979, gb_s=4000, link=_nvlink(900),
        host=_nvlink(900), sm=(9, 0),
        rates_source="https://spheron.network/blog/nvidia-gh200-guide",
    ),
    _card(
        "H200", "h200sxm", gb=141, gib=139.8, bf16=989, fp8=1979, gb_s=4800, link=_nvlink(900),
        host=_HOST_PCIE5, sm=(9, 0),
        rates_source="https://hmc-tech.com/gpu/nvidia-h100-vs-nvidia-h200-sxm-vs-nvidia-gb200",
        memory_source="measured",
    ),
    _card(
        "B200", gb=180, gib=178.0, bf16=2250, fp8=4500, gb_s=7700, link=_nvlink(1800), host=_HOST_PCIE5,
        sm=(10, 0),
        rates_source="https://glennklockwood.com/garden/processors/B200",
    ),
)  # fmt: skip

# What a card that is known by its memory alone is taken for: the most common one of that size.
_TYPICAL_OF_SIZE = {24: "RTX 4090", 32: "RTX 5090", 48: "RTX 6000 Ada", 80: "H100 SXM",
                    96: "RTX PRO 6000", 141: "H200", 180: "B200"}  # fmt: skip


def find_card(name: str) -> TableRow | None:
    """Return the row of a card as people or drivers write it, None when it is not in the table.

    Where several have that name, memory decides: the closest to what `name` says, else the first in the table.
    """
    alias = _normalise(_MEMORY.sub(" ", name))
    rows = [row for row in CARDS if alias in row.aliases]
    gb = printed_memory(name)
    if not rows or gb is None:
        return rows[0] if rows else None
    return min(rows, key=lambda row: abs(row.printed_gb - gb))


def card_of_size(printed_gb: float) -> GpuSpec:
    """Return what a card with this much memory is taken for: the typical card of the next smaller size.

    A size between two cards keeps the arithmetic of the smaller one and scales its memory.
    """
    sizes = [size for size in _TYPICAL_OF_SIZE if size <= printed_gb] or [min(_TYPICAL_OF_SIZE)]
    row = find_card(_TYPICAL_OF_SIZE[max(sizes)])
    assert row is not None, "the typical cards are in the table"
    total_bytes = int(row.spec.total_bytes * printed_gb / row.printed_gb)
    return dataclasses.replace(row.spec, name=f"{printed_gb:g} GB card", total_bytes=total_bytes)


def typical_name(printed_gb: float) -> str:
    """Return the name of the card whose arithmetic `card_of_size` takes."""
    sizes = [size for size in _TYPICAL_OF_SIZE if size <= printed_gb] or [min(_TYPICAL_OF_SIZE)]
    return _TYPICAL_OF_SIZE[max(sizes)]
