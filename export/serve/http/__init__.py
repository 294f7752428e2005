"""FastAPI, the shapes of each API, headers, access, logs and metrics.

Imports caching, models, scheduling, service, settings, worker_commands.
"""
