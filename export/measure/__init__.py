"""What was lost and what was gained: quality, parity, latency, and the trade-off between them."""
