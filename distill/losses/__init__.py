"""Losses on scores and on states: pure functions, and the terms of options that weigh them.

Imports errors, options.
"""
