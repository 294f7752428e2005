"""One experiment: the order of its stages, what each stage hashes and calls, and the folder of its run.

Imports every room but commands, sweep and online.
"""
