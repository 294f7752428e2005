"""Adapters from data sets to the records of `rankdistill.data.records`, one a file.

Imports errors, options, store.
"""
