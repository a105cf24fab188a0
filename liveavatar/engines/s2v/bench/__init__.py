"""How fast and how large the s2v engine is on this machine."""
