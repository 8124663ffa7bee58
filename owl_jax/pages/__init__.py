"""Shared parts of the package's HTML pages: base template and style, charts, pictures, bar tables.

Each page's template is in templates/ beside the module that writes it.
"""
