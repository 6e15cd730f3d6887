"""Shared by the four scripts: the console, files, jobs, training, scores and the report."""
