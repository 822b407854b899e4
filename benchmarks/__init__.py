"""Measurements: the runner of cells, comparisons, and the tables and pictures made from their rows."""
