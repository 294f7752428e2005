"""Texts to token ids, and what is kept of texts seen before.

Imports manifest, untrusted and errors.
"""
