"""The causal Wan2.2-S2V transformer. Read model.py first, then block.py and kv_cache.py."""

from liveavatar.models.s2v.config import S2V_14B, TokenGrid
from liveavatar.models.s2v.model import S2VTransformer, routing_masks

__all__ = ["S2V_14B", "S2VTransformer", "TokenGrid", "routing_masks"]
