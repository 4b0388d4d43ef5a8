"""What a configuration says, settled: its faces opened, its batches shared, its device found."""
