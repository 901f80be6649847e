"""Diffusion as small pure parts: schedule, timesteps, sampler, guidance, condition."""
