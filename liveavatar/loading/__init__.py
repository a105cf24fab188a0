"""From checkpoint files to weights in memory."""
