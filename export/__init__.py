"""What is done with a finished ranker: convert, quantize, measure, run. Never imports `distill`."""
