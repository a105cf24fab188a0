"""What the machine has and how much of it is in use. No torch."""
