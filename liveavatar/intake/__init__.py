"""Is the input usable, and if so, in the one form the engines read. No torch."""
