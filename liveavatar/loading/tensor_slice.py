"""Which part of a checkpoint's tensor a rank reads."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class TensorSlice:
    """Rows (dimension 0) or columns (dimension 1) from `start` to `stop`."""

    dim: int
    start: int
    stop: int

    def __post_init__(self) -> None:
        if self.dim not in (0, 1) or not 0 <= self.start <= self.stop:
            raise ValueError(f"no slice: dimension {self.dim}, {self.start} to {self.stop}")

    @property
    def index(self) -> tuple[slice, ...]:
        """Return what to index a tensor, or a slice of a safetensors file, with."""
        return (*[slice(None)] * self.dim, slice(self.start, self.stop))

    def of(self, tensor: Tensor) -> Tensor:
        """Return this part of a whole tensor, as a view."""
        return tensor[self.index]


def even_slice(size: int, *, dim: int, rank: int, num_ranks: int) -> TensorSlice:
    """Return a rank's share of a dimension that is a multiple of the number of ranks.

    Raises ValueError where it is not.
    """
    if size % num_ranks:
        raise ValueError(f"{size} cannot be shared evenly by {num_ranks} ranks")
    width = size // num_ranks
    return TensorSlice(dim=dim, start=rank * width, stop=(rank + 1) * width)
