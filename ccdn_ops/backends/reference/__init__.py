"""Plain PyTorch, written to be read beside the paper; differentiable by autograd."""
