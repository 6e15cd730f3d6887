"""Limits that all modules share. Imports nothing, so that --help answers at once."""

MIN_QUALITY, MAX_QUALITY, DEFAULT_QUALITY = 1, 100, 50
MAX_EFFORT = 9  # most effort of the encoder's search; 0 is none
SSIMULACRA2_SIDE = 8  # pixels of the shortest side that SSIMULACRA 2 is defined for
PREVIEW_SCALES = (2, 4, 8, 16)  # a preview has 1/2 to 1/16 of the height and of the width
MAX_PIXELS = 178_956_970  # a picture's, unless --max_pixels says otherwise; Pillow's own limit
