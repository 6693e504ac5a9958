"""How good rankings are: metrics, benchmark protocols and how far their figures can be trusted."""
