"""Mixes: training sets of exact composition, drawn from a store by tables of domain and class.

A recipe names the rule; counts come first, then the rows, by hash; a keep-list is the result.
"""
