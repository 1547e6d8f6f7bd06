"""Domains: fit heads that tell photographs from renditions, on embeddings and a table of labels.

Parts, thresholds at a chosen precision, honest bounds of it; labels, compositions and audits of
whole stores.
"""
