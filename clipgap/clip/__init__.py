"""Models: embeddings, training, evaluation. Only here is open_clip imported."""
