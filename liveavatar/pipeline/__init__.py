"""From conditions to latents: the denoising schedule and the loop over blocks."""
