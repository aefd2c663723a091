"""Training loop, checkpoints, run folders."""
