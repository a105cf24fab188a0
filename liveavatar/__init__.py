"""LiveAvatar Studio: a portrait, a voice and a sentence in, a streaming video of that person speaking out."""

__version__ = "0.1.0"
