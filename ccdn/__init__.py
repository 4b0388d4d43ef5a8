"""CCDN: robust facial landmark detection by a cross-order cross-semantic deep network."""
