"""From symptoms to sentences. Standard library only."""
