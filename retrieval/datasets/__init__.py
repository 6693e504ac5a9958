"""Data sets: what is right for each query, and sets to measure and train on."""
