"""Galleries in served engines: the same words as for a folder, vectors in PostgreSQL or Milvus."""
