"""The sections of the page, one file each: what it computes, and the figures and tables of it.

A new figure is a function in the file of its section, named in `parts` there.
"""
