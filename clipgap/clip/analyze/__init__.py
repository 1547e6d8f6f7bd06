"""Analysis: how alike images of different domains are inside of a model."""
