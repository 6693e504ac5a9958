"""The gallery on disk: a catalog (SQLite), vectors (memory-mapped segments) and a search index derived from them."""
