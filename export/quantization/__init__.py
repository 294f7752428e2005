"""Checkpoints to graphs that are served: fp32, and 8 bits by each method.

Imports errors, graphs, measure, progress, runtime.
"""
