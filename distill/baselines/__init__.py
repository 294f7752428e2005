"""Rankers that cost nothing to train: their scores, their best combination, and the floor under a teacher.

Imports data, errors, models, options, store, training.
"""
