"""Trained networks in files: checkpoints, safetensors, and the bundled weights."""
