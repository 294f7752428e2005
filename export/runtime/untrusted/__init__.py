"""Files that may come from anywhere: bounded in size and depth, checked before they are believed.

Imports nothing of this project but errors.
"""
