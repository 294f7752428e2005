"""How a teacher and a student come to be: located, checked, tuned, cut, narrowed, fitted again.

Imports data, errors, losses, options, store, training.
"""
