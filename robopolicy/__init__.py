"""The workshop: command line, recipes, data, training and evaluation."""

__version__ = "0.1.0"
