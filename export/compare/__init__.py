"""Many runs side by side: rows, differences, figures, a page and a table for the terminal.

Imports errors, extras, files, gate, measure, report, runtime.
"""
