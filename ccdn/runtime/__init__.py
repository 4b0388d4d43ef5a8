"""Operating system services: files, locks, signals, processes, devices, the terminal."""
