"""Kernels in Triton, for CUDA devices; on CPU tensors under TRITON_INTERPRET=1, for tests.

ops/X/triton.py launches what triton_kernels.py next to it holds, whose head counts bytes and
operations. Several operators share launcher.py, features.py, matrices.py and newton_schulz.py.

ctm has no kernel of its own; it runs those of its parts (ops/ctm/spec.py). Two of these always read
the maps from memory: the first, channel_means, and the last, `excite`, which writes all P maps at
once. Between them gram_matrix sweeps over x (tiles of 64 across the matrix) + 1 times and, with
fewer positions than channels, two matrix_vector launches sweep once each. If x fits in the L2 cache
(50 MB on an H100; float32 (128, 256, 16 x 16) takes 34), the cache serves the later sweeps, and the
maps move 1 + P times, the floor. If not, each sweep that the cache does not serve is one more read:
at most 3 + P by channels and 5 + P by positions, provided that the cache holds what one launch has
in flight. The matrix, n x n float32 per sample, is written once more and kept for backward.
"""
