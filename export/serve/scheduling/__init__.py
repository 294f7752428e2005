"""Which request is scored next, by which thread.

Imports no other room.
"""
