"""Copies of pictures, altered copies, and other shots of a scene: candidates, verification, groups, and which one to keep."""
