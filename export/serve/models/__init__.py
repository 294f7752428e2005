"""Which model answers: loaded, tried on live requests, swapped, rolled back, governed by the load.

Imports caching, scheduling, settings, worker_commands.
"""
