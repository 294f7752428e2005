"""The `ranker` command: options and printing of each subcommand.

Imports any room of export; nothing imports it.
"""
