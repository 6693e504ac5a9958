"""The search index derived from the vectors: which kind, its file, its recall, candidates from it."""
