"""How many points, of which size and codebook, a local index needs, and what it costs."""
