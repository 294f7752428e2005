"""The commands `distill`, `distill-store`, `distill-track` and `distill-update`: parse, call, print, exit code.

Imports any room; nothing but `rankdistill.__main__` and Hydra imports it.
"""
