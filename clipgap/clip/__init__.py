"""Models: embeddings, training, evaluation. Only here is open_clip imported.

Images are listed, read and decoded in one place for all three.
"""
