"""Which pooling, which p: one pass of the network, all methods."""
