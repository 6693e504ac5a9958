"""What ``ray_kills.py`` is made of: watched workers, processes that are told by a mark, and a cluster of two nodes."""
