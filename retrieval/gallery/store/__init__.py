"""What is stored: catalog, vectors, the lock; and views of the vectors."""
