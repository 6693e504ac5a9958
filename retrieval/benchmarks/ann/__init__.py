"""Search indexes: recall, time and memory against exact search."""
