"""Puts this folder on the path: its tests share run_connector."""
