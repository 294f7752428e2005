"""Scoring with a bundle: numpy, onnxruntime and tokenizers only; `rankdistill` itself offers what programs import.

Imports errors, extras.
"""
