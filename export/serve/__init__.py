"""The bundle under live traffic: an HTTP service over `rankdistill.export.runtime`. Needs the extra `serve`.

Imports errors, extras, files, runtime, yaml_file.
"""
