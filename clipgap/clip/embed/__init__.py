"""From images to a store of their embeddings."""
