"""Extraction in parts: many workers describe shards of a source, one gallery takes the parts in."""
