"""The network in training: its weights, what moves and averages them, and what watches over them."""
