"""Benchmarks: the same pictures, the same network, one thing changed at a time, and figures with their uncertainty."""
