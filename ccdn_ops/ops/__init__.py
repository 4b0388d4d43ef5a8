"""The public functions: what they check, and their gradients."""
