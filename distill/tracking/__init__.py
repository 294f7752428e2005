"""Runs in MLflow: what is recorded, and the client that records it.

Imports errors, options.
"""
