"""Numbers held to a budget: what is measured, what is estimated, and the decision.

Imports report, measure, graphs and runtime.
"""
