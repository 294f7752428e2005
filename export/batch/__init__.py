"""Whole files: the vectors and the item states of a catalogue.

Imports errors, extras, files, runtime.
"""
