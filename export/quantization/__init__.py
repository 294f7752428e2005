"""Checkpoints to graphs that are served: fp32, and 8 bits by each method.

Imports graphs, measure and runtime.
"""
