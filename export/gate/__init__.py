"""Numbers held to a budget: what is measured, what is estimated, and the decision.

Imports errors, files, graphs, machine_lock, measure, report, runtime, yaml_file.
"""
