"""A part of the layers: consecutive ones, with the audio injections behind them."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from torch import nn

from liveavatar.models.s2v import S2VTransformer


def layers_of_part(num_layers: int, num_parts: int, part: int) -> range:
    """Return the layers of a part; parts differ by one layer at most.

    Raises ValueError where a part would be empty.
    """
    if num_parts > num_layers:
        raise ValueError(f"{num_layers} layers cannot be cut into {num_parts} parts")
    edges = [round(num_layers * index / num_parts) for index in range(num_parts + 1)]
    first, last = list(itertools.pairwise(edges))[part]
    return range(first, last)


def keep_layers(model: S2VTransformer, layers: range) -> None:
    """Take all other layers and their audio injections out of the model. Names of parameters stay.

    Embeddings, encoders of time, text and speech, and the head stay too: 0.7 of 32 GB, and most of them are needed.
    """
    model.blocks = _named(model.blocks, layers)
    injector = model.audio_injector
    kept = [place for place, index in enumerate(injector.block_indices) if index in layers]
    injector.block_indices = tuple(injector.block_indices[place] for place in kept)
    injector.injector = _named(injector.injector, kept)
    injector.injector_adain_layers = _named(injector.injector_adain_layers, kept)


def _named(modules: nn.ModuleList | nn.ModuleDict, kept: Iterable[int]) -> nn.ModuleDict:
    """Return some modules of a list under their old names."""
    assert isinstance(modules, nn.ModuleList), "a model is cut once"
    return nn.ModuleDict({str(index): modules[index] for index in kept})
