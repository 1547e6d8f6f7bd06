"""Proofs: whether what a folder holds is what its manifest says it was made from.

Every kind of folder that clipgap writes has its checks here; a certificate is what they leave.
"""
