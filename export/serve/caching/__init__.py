"""Scores kept in memory and in Redis, and the most frequent requests that fill a cache.

Imports scheduling, settings.
"""
