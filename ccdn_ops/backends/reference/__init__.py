"""Plain PyTorch, written to be read next to the paper; differentiable by autograd."""
