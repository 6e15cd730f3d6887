"""A learned image codec: pictures to the bytes of .xfr files and back.

>>> import numpy as np
>>> import xfr
>>> rows, columns = np.mgrid[:120, :160]
>>> pixels = (rows + columns + 20 * np.sin(rows / 9)).clip(0, 255).astype(np.uint8)
>>> data = xfr.encode(pixels, checkpoint="main", quality=40)
>>> xfr.decode(data)
<PIL.Image.Image image mode=L size=160x120 at ...>
>>> xfr.decode(data, scale=8)
<PIL.Image.Image image mode=L size=20x15 at ...>
>>> len(xfr.encode(pixels, max_bytes=1000)) <= 1000
True

``encode`` also takes a path or an image of Pillow: ``xfr.encode("photo.jpg", quality=60)``. The
import takes little time: torch is loaded at the first call.

It also adds the format to Pillow: ``Image.open("photo.xfr")`` and ``image.save("photo.xfr",
quality=60)``; see xfr/plugin.py.
"""

from pathlib import Path

from model.limits import MAX_PIXELS
from xfr import plugin

TYPE_CHECKING = False  # typing.TYPE_CHECKING without the time of importing typing
if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

__version__ = "1.1.0"
plugin.register()


def encode(
    picture: "Image.Image | np.ndarray | str | Path",
    checkpoint: str | Path = "visual",
    quality: int | None = None,
    *,
    effort: int = 0,
    strip_metadata: bool = False,
    device: str = "cpu",
    **target: float,
) -> bytes:
    """The bytes of an .xfr file.

    ``picture``: a path, of whose file a warning tells what is not kept; an image of Pillow, whose
    pixels, transparency and colour profile are encoded; or a uint8 array, [H, W, 3] or grey [H, W].
    ``checkpoint``: main, hyperprior or visual, or a path; it is loaded once, and threads share it.
    ``quality``: 1 to 100, 50 unless there is a target. ``target``: instead of a quality, one of
    ``target_bpp`` and ``max_bytes``, a size that the file keeps, and ``target_psnr``, in dB, and
    ``target_ssimulacra2``, which the decoded picture reaches. ``effort``: of the search for a
    smaller file, 0 to 9, which main does not have. ``strip_metadata``: leave out EXIF, XMP, IPTC,
    texts and resolution; the profile stays.

    ValueError if the picture cannot be read or has more than MAX_PIXELS, if the checkpoint is
    damaged, if a setting is out of its range, or if no quality keeps the size. OSError if a file
    cannot be read.
    """
    from xfr.library import as_picture, encoded

    return encoded(
        as_picture(picture), checkpoint, quality, effort, strip_metadata, device, **target
    )


def decode(
    data: bytes | str | Path,
    checkpoint: str | Path | None = None,
    *,
    scale: int = 1,
    crop: tuple[int, int, int, int] | None = None,
    device: str = "cpu",
    max_pixels: int = MAX_PIXELS,
) -> "Image.Image":
    """The picture in an .xfr file, as an image of Pillow. ``data``: its bytes, or its path.

    The image, unlike an array, holds transparency, and in ``info`` colour profile, EXIF, XMP, IPTC,
    texts and resolution; it can be shown or saved in any format, and ``np.asarray`` has its pixels.

    ``checkpoint``: the one that made the file, or another in its folder; None for the checkpoints
    that come with the program. ``scale``: 2, 4, 8 or 16 for a preview of 1/scale of the width and
    height, rounded up. ``crop``: x, y, width and height of the pixels that are wanted, which are
    then the same as in the entire picture. ValueError if the file is damaged, if its checkpoint is
    not there, if the picture has more than ``max_pixels``, if the crop is not within it, or if
    there are both scale and crop.
    """
    from xfr.file import unpack
    from xfr.library import as_bytes, decoded

    xfr = unpack(as_bytes(data, max_pixels), max_pixels)
    return decoded(xfr, checkpoint, device, scale, crop)
