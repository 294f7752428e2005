"""The folder that is handed over: written, described, signed, verified, succeeded by an updated one.

Imports report, measure, graphs and runtime.
"""
