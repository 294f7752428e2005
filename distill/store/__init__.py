"""The store of stages: what is made once under its key, who refers to it, and who uses it now.

Imports errors, torchrun.
"""
