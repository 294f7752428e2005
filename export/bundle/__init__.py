"""The folder that is handed over: written, described, signed, verified, succeeded by an updated one.

Imports errors, extras, files, gate, graphs, measure, progress, report, runtime.
"""
