"""Engines run a model: uint8 pictures of one shape in, descriptors out. They differ in speed, never in meaning."""
