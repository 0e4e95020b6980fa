"""Generative samplers: noise paths and the solvers that walk them."""
