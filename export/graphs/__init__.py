"""ONNX graphs in fp32: built from weights, traced for comparison, and what they share.

Imports errors, runtime, torch_models.
"""
