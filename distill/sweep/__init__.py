"""Many runs: which are wanted (sweepers), and where and how many at once (launchers).

Imports errors, options, tracking, training.
"""
