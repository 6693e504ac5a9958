"""The version of this program, which every floor may name."""

__version__ = "0.2.0"
