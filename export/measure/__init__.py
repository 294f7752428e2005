"""What was lost and what was gained: quality, parity, latency, and the trade-off between them.

Imports errors, graphs, machine_lock, progress, runtime, torch_models.
"""
