"""Puts this folder on the path: its subfolders import training_runs and small_step from it."""
