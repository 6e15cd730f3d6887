"""Measurements of the codecs beside others: rate-distortion curves, speed, the search."""
