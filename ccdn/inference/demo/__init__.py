"""A page on this machine that shows what a predictor finds in pictures and in a webcam's."""
