"""The recipe "copies": a model learned without labels, from altered copies and views of the same thing."""
