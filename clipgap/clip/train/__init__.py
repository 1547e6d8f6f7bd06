"""Training on what a split keeps: CLIP by open_clip, classifiers by torchvision."""
