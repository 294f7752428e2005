"""One experiment: the order of its stages, what each stage hashes and calls, and the folder of its run.

Imports baselines, data, embedder, errors, losses, models, options, store, torchrun, training.
"""
