"""What the messages of torch, NCCL and gloo mean. Told by text, because this side does not import torch.

The texts are those of torch 2.11 to 2.13 and NCCL 2.29. An "unhandled system error" of NCCL is a socket or shared
memory (in containers a small /dev/shm, NVIDIA/nccl #473 and #975); its "unhandled cuda error" is the driver's, most
often a full card.
"""

from __future__ import annotations

from liveavatar.core.errors import Diagnosis

_TRY_AGAIN = "Press Generate again; a fresh engine is started by itself."
_LESS_MEMORY = "Close other programs or choose a smaller picture size, then press Generate again."

GRAPHICS_MEMORY_FULL = Diagnosis(
    code="graphics_memory_full",
    title="A graphics card's memory is full.",
    cause="The engine asked for more than is free; other programs may be using the card.",
    remedy=_LESS_MEMORY,
)
HOST_MEMORY_FULL = Diagnosis(
    code="out_of_memory",
    title="The machine's memory is full.",
    cause="The engine asked for more than is free.",
    remedy=_LESS_MEMORY,
)
_CARD_REFUSED = Diagnosis(
    code="nccl_cuda_error",
    title="A graphics card failed while the cards exchanged data.",
    cause="The driver refused a call of the library NCCL, most often because the card's memory is full.",
    remedy=f"{_LESS_MEMORY} NCCL_DEBUG=INFO in the app's environment has the reason written to engine.log.",
)
_NO_SHARED_MEMORY = Diagnosis(
    code="nccl_system_error",
    title="The graphics cards cannot exchange data.",
    cause="The system refused shared memory or a connection to the library NCCL; a container's /dev/shm is often too"
    " small for it.",
    remedy="Start the container with --ipc=host or --shm-size=8g. NCCL_DEBUG=INFO in the app's environment has the"
    " reason written to engine.log.",
)
_CARD_FAILED = Diagnosis(
    code="graphics_card_error",
    title="A graphics card failed.",
    cause="The driver reported an error in the middle of the work; engine.log has its words.",
    remedy=f"{_TRY_AGAIN} If it happens again, restart the machine and look for the card in its system log.",
)
_PORT_TAKEN = Diagnosis(
    code="port_taken",
    title="The parts of the engine could not meet.",
    cause="Another program took the network port in the same moment.",
    remedy=_TRY_AGAIN,
)
_PEER_WAITED_FOR = Diagnosis(
    code="peer_waited_for",
    title="One part of the engine waited too long for another.",
    cause="A graphics card hangs, or the connection between the cards is broken.",
    remedy=_TRY_AGAIN,
)
_PEER_LOST = Diagnosis(
    code="peer_lost",
    title="One part of the engine lost the connection to another.",
    cause="That part ended, or the connection between the graphics cards is broken.",
    remedy=_TRY_AGAIN,
)

# The first text that occurs decides: time-outs are told in messages that speak of lost connections, too.
_TEXTS = (
    ("can't allocate memory", HOST_MEMORY_FULL),
    ("out of memory", GRAPHICS_MEMORY_FULL),
    ("unhandled cuda error", _CARD_REFUSED),
    ("unhandled system error", _NO_SHARED_MEMORY),
    ("address already in use", _PORT_TAKEN),
    ("timeout", _PEER_WAITED_FOR),
    ("timed out", _PEER_WAITED_FOR),
    ("connection closed", _PEER_LOST),
    ("connection reset", _PEER_LOST),
    ("connection refused", _PEER_LOST),
    ("broken pipe", _PEER_LOST),
    ("remote process exited", _PEER_LOST),
    ("communicator was aborted", _PEER_LOST),
    ("gloo/transport", _PEER_LOST),
    ("cuda error", _CARD_FAILED),
    ("cudnn error", _CARD_FAILED),
)
_CLASSES = {
    "OutOfMemoryError", "AcceleratorError", "DistBackendError", "DistNetworkError", "DistStoreError", "RuntimeError",
    "OSError", "BrokenPipeError", "ConnectionError", "ConnectionResetError", "ConnectionRefusedError",
    "ConnectionAbortedError",
}  # fmt: skip


def from_torch_text(class_name: str, text: str) -> Diagnosis | None:
    """Explain an error of torch or of a connection; None when it is neither."""
    return _explain(text) if class_name in _CLASSES else None


def from_torch_log(text: str, rank: int) -> Diagnosis | None:
    """Explain what torch's own threads wrote before they ended a rank, which has no other last words."""
    said = "\n".join(line for line in text.splitlines() if line.startswith(f"[rank{rank}]:"))
    return _explain(said)


def _explain(text: str) -> Diagnosis | None:
    lowered = text.lower()
    return next((diagnosis for words, diagnosis in _TEXTS if words in lowered), None)
