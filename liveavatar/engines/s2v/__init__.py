"""The s2v engine: Wan2.2-S2V-14B with the LiveAvatar adapter."""
