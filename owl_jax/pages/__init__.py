"""What the package's HTML pages share: a frame with its style, charts, pictures, bar tables.

Each page's own template lies beside the module that writes it, in templates/.
"""
