"""The model of single texts: a BERT with pooling and a linear layer, distilled from a cross-encoder.

Imports data, losses, models, options, training.
"""
