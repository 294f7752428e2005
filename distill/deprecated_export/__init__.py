"""The package `export` of version 0.1, for one more release: it is `rankdistill.export` now.

Imports no other room.
"""
