"""The commands `distill`, `distill-store`, `distill-track` and `distill-update`: parse, call, print, exit code.

Imports errors, online, options, pipeline, store, sweep, torchrun, tracking, training.
"""
