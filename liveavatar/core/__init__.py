"""The vocabulary shared by the app process and the engine processes. Standard library only."""
