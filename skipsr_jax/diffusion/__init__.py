"""Diffusion as pure functions: schedule, timesteps, sampler, guidance, condition, distillation."""
