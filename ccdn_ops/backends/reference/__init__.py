"""Plain PyTorch, written to be read along with the paper; differentiable by autograd."""
