"""Keeping a served student fresh: events, what they teach, and when the model has drifted from them.

Imports data, errors, losses, models, options, pipeline, training.
"""
