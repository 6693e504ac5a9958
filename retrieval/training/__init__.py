"""Training: losses, tuples and their mining, sources of training pictures, and the trainer."""
