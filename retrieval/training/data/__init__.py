"""Training pictures: where they come from, how they are read and varied, which tuples are mined from them."""
