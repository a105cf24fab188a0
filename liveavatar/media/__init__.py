"""Encoding and re-packaging of video. No torch, no network."""
