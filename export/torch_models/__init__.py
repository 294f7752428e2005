"""The only PyTorch code of export: checkpoints, and the forward passes of a BERT ranker.

Imports errors.
"""
