"""Stand-ins that exist for tests only."""
