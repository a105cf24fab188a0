"""Neural networks whose weights are published elsewhere."""
