"""What the model is told: text, audio features, reference picture, motion."""
