"""The model of single texts: a BERT with pooling and a linear layer, distilled from a cross-encoder.

Imports models, training, data and options.
"""
