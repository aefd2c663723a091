"""The diffusion core: schedules, noise, forward and reverse processes, samplers. Imports torch only."""
