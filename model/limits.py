"""Limits that all modules share. Imports nothing, so that --help answers at once."""

MIN_QUALITY, MAX_QUALITY, DEFAULT_QUALITY = 1, 100, 50
MAX_EFFORT = 100  # rounds of refinement
MAX_PIXELS = 178_956_970  # of a picture, unless --max_pixels says otherwise; Pillow's own limit
