"""The `ranker` command: options and printing of each subcommand.

Imports batch, bundle, compare, errors, extras, files, full_disk, gate, measure, runtime, serve.
"""
