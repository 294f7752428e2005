"""FastAPI, the shapes of each API, headers, access, logs and metrics.

Imports service and all below it.
"""
