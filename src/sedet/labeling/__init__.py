"""Pseudo labels out, corrections in: label folders of any size, rank images for annotation, merge what came back."""
