"""Files as other programs write them: .mat, HDF5, JSON, .pts."""
