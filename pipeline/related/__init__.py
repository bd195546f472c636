"""What a model says beside its lists: related items, embeddings, the best users of an item."""
