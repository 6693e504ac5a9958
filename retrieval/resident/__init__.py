"""A gallery that another process holds open answers in its place, through a socket that only its user can reach."""
