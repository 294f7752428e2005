"""Which request is scored next, by which thread.

Imports runtime alone.
"""
