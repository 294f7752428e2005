"""The bundle under live traffic: an HTTP service over `export.runtime`. Needs the extra `serve`."""
