"""One run in words: its trade-off, its verdict, its page and its tables.

Imports errors, files, graphs, measure, runtime.
"""
