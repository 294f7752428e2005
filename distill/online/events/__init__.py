"""From a log of events to graded lists: read once, labelled, weighed by position.

Imports data, options and errors.
"""
