"""Finding the best items by their vectors: exactly, or through an index of faiss."""
