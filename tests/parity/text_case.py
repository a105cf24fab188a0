"""Text embeddings against recorded ones."""

from __future__ import annotations

import torch

from liveavatar.conditioning.text import build_text_encoder, embed_tokens
from tests.parity.golden import GoldenCase, relative_error

KINDS: tuple[str, ...] = ("t5",)


def run_case(case: GoldenCase) -> dict[str, float]:
    """Return the error of every prompt's embedding, made from its real tokens alone."""
    encoder = build_text_encoder(case.weights, device="cpu", dtype=torch.float32)
    errors = {}
    for index, (token_ids, mask) in enumerate(zip(case.io["ids"], case.io["mask"], strict=True)):
        embedding = embed_tokens(encoder, token_ids[: int(mask.sum())])
        errors[f"context{index}"] = relative_error(embedding, case.io[f"context{index}"])
    return errors
