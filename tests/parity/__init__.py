"""Comparison of the S2V model with recorded tensors, case by case."""
