"""The Trainer, its steps, batches, scoring and callbacks.

Imports data, errors, losses, options, torchrun.
"""
