"""Second looks at a ranking: query expansion, diffusion, reciprocal neighbours and geometry. All work without labels."""
