"""Many runs side by side: rows, differences, figures, a page and a table for the terminal.

Imports gate, report, measure and runtime.
"""
