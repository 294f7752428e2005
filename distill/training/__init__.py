"""The Trainer, its steps, batches, scoring and callbacks.

Imports losses, data and options; knows no model's making and no stage.
"""
