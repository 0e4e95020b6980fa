"""Conversion of other data sets: one file per format, see ``conversion.convert``."""
