"""Utilities of the process that know nothing of models: names, progress, forks, warnings."""
