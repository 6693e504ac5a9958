"""Token Pooling compared: what schedules and methods save, and what they lose."""
