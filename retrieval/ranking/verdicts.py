"""What is said of a match, beside its probability."""

SAME, LIKELY, SIMILAR = "same", "likely", "similar"
