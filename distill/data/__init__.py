"""Adapters from data sets to the records of `distill.records`, one a file."""
