"""Settles a configuration: opens its faces, divides its batches, finds its device."""
