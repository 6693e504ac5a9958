"""A set of drawn buildings in easy and hard views, with ground truth."""
