"""Evaluation: metrics, predictions and reports."""
