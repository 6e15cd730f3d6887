"""The pictures of the page: originals, reconstructions and error maps as data: URIs."""

import base64
import io

import numpy as np
from PIL import Image, ImageChops

from xfr.images import Picture

MIN_SIDE, MAX_SIDE = 256, 800  # pixels that the longer side of a picture is shown with
ACTUAL_SIDE = 1200  # pixels on a side that can be seen at 1:1, of a larger picture
WEBP_QUALITY = 90  # of the embedded pictures; WebP must lose little compared with the codec
AMPLIFY = 5  # factor of the error maps, the same for all pictures so that they can be compared


class Views:
    """An original and its reconstructions as the page shows them: ``shown`` pictures and ``errors``
    as data: URIs, ``width`` and ``height`` in pixels of the page, and ``notes`` about them.
    ``actual``: the parts that are seen at 1:1, or "" where the picture is not reduced anyway."""

    def __init__(self, pictures: list[Picture]):
        before = pictures[0]
        # All have the profile of the original: not every format of reconstructions can hold one.
        profile = before.metadata.icc if before.pixels.ndim == 3 else None
        images = [Image.fromarray(np.ascontiguousarray(picture.rgb)) for picture in pictures]
        errors = [
            ImageChops.difference(images[0], image).point(lambda value: min(AMPLIFY * value, 255))
            for image in images[1:]
        ]
        full = images[0].size
        scale = min(MAX_SIDE / max(full), 1)
        size = tuple(max(round(side * scale), 1) for side in full)
        zoom = max(MIN_SIDE // max(size), 1)  # by the browser, so that a slider fits onto an icon
        self.width, self.height = (zoom * side for side in size)
        reduced = [image.resize(size, Image.Resampling.LANCZOS) for image in images]
        self.shown = [data_uri(image, profile) for image in reduced]
        # Errors are reduced after they were computed: otherwise they would vanish.
        reduced = [error.resize(size, Image.Resampling.BOX) for error in errors]
        self.errors = [data_uri(error, None) for error in reduced]
        self.actual, notes = [""] * len(images), []
        if size != full:
            box = worst_area(errors[0])
            self.actual = [data_uri(image.crop(box), profile) for image in images]
            part = "all of it" if box == (0, 0, *full) else "the part with the largest errors"
            notes.append(
                f"Reduced to {100 * scale:.0f}\u202f% from {full[0]:,}\u202f×\u202f{full[1]:,} for "
                f"this page: fine artefacts look smaller than they are. 1:1 shows {part}."
            )
        if before.alpha is not None:
            notes.append("Shown and scored without its transparency.")
        self.notes = " ".join(notes)


def worst_area(error: Image.Image) -> tuple[int, int, int, int]:
    """The box, of at most ACTUAL_SIDE pixels on a side, with the largest sum of errors."""
    step = 16
    coarse = np.asarray(error.convert("L").reduce(step), np.int64)
    height, width = (min(ACTUAL_SIDE // step, length) for length in coarse.shape)
    sums = np.pad(coarse.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    rows = sums[height:] - sums[:-height]
    areas = rows[:, width:] - rows[:, :-width]
    top, left = (step * int(i) for i in np.unravel_index(areas.argmax(), areas.shape))
    side = ACTUAL_SIDE
    left, top = max(min(left, error.width - side), 0), max(min(top, error.height - side), 0)
    return left, top, min(left + side, error.width), min(top + side, error.height)


def data_uri(image: Image.Image, profile: bytes | None) -> str:
    stream = io.BytesIO()
    image.save(stream, format="WEBP", quality=WEBP_QUALITY, icc_profile=profile)
    return "data:image/webp;base64," + base64.b64encode(stream.getbuffer()).decode()
