"""What was decided by itself in a plan that fits, one note each."""

from __future__ import annotations

from liveavatar.core.memory import gb_text
from liveavatar.core.note import Note
from liveavatar.planning import memory_model
from liveavatar.planning.candidates import Candidate

_FP8_WEIGHTS = Note(
    code="fp8_weights",
    text="Weights are 8-bit: half the memory; the published evaluation scores them like 16-bit ones.",
)
_FP8_CACHES = Note(
    code="fp8_caches",
    text="Cached keys and values are kept in 8 bits, which halves them; the picture may differ slightly.",
)
_INT8_ATTENTION = Note(
    code="int8_attention",
    text="Attention works in 8 bits: faster, half the memory for keys and values; the picture may differ slightly.",
)
_ONE_LATENT = Note(
    code="one_latent_per_decode",
    text="The decoder takes one latent frame at a time, which needs less memory and more time.",
)
_TILED = Note(
    code="tiled_decoding",
    text="Pictures are decoded in 2 tiles, which needs less memory;"
    " where tiles meet, colours may differ by a few of 255 levels.",
)


def plan_notes(candidate: Candidate) -> tuple[Note, ...]:
    """Return the notes on a plan that fits, its pace first."""
    configuration, details = candidate.configuration, candidate.details
    pace = Note(code="pace", text=details.reason, values={"seconds": f"{max(details.rank_seconds):.2f}"})
    notes = [pace]
    if configuration.precision == "fp8":
        notes.append(_FP8_WEIGHTS)
    if configuration.kv_precision == "fp8":
        notes.append(_FP8_CACHES)
    if configuration.kv_precision == "int8":
        notes.append(_INT8_ATTENTION)
    if configuration.latents_per_decode == 1:
        notes.append(_ONE_LATENT)
    if configuration.tiled_vae:
        notes.append(_TILED)
    if configuration.offload.is_used:
        text = f"{gb_text(details.host_bytes)} wait in host memory."
        notes.append(Note(code="in_host_memory", text=text, values={"host_bytes": details.host_bytes}))
    return (*notes, _text_encoder(text_rank(candidate)))


def _text_encoder(rank: int | None) -> Note:
    size = memory_model.text_encoder_bytes()
    if rank is None:
        text = f"The text encoder ({gb_text(size)}) runs on the processor, once for every new prompt."
        return Note(code="text_encoder_on_processor", text=text, values={"size_bytes": size})
    text = f"The text encoder ({gb_text(size)}) stays on the card of rank {rank}."
    return Note(code="text_encoder_on_card", text=text, values={"size_bytes": size, "card": rank + 1})


def text_rank(candidate: Candidate) -> int | None:
    """Return the rank whose card has room for the text encoder, None when no card has."""
    budgets = candidate.details.budgets
    return next((budget.rank for budget in budgets if budget.item_bytes("text encoder") > 0), None)
