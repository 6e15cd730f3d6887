"""Pillow's plugin for .xfr files, which ``import xfr`` registers.

>>> import io, xfr
>>> stream = io.BytesIO()  # or the path of an .xfr file
>>> Image.new("RGB", (160, 120), "teal").save(stream, "XFR", quality=60, checkpoint="visual")
>>> Image.open(stream).size
(160, 120)
>>> thumbnail = Image.open(stream)
>>> thumbnail.thumbnail((40, 40))  # decodes a preview
>>> thumbnail.size
(40, 30)

``Image.open`` reads size, mode and metadata; torch is loaded to decode pixels. ``Image.save`` takes
``checkpoint``, ``quality``, ``effort`` and the targets of ``xfr.encode``, and as Pillow's plugins
``exif``, ``xmp``, ``dpi`` and ``icc_profile``, by default that of the image. Other options are
ignored, as by those.
"""

from dataclasses import replace
from typing import IO, Any, BinaryIO, cast

from PIL import Image, ImageFile

from model.limits import PREVIEW_SCALES

FORMAT_NAME = "XFR"
TARGET_SETTINGS = ("target_bpp", "max_bytes", "target_psnr", "target_ssimulacra2")
SAVE_SETTINGS = ("quality", "effort", *TARGET_SETTINGS)
METADATA_NAMES = ("icc_profile", "exif", "xmp", "dpi")


class XfrImageFile(ImageFile.ImageFile):
    """An image that is decoded when it is loaded, with the shipped checkpoint that made it.
    ``encoded``: the bytes of the file until then. ``scale``: 1, or that of a preview."""

    format = FORMAT_NAME
    format_description = "Learned image codec"
    encoded = b""
    scale = 1

    def _open(self) -> None:
        """Read size, mode and info. SyntaxError, which Pillow expects, if they are damaged."""
        from xfr.file import read_stream, unpack_start
        from xfr.library import info_of

        try:
            self.encoded = read_stream(cast(BinaryIO, self.fp))
            header, metadata = unpack_start(self.encoded)
        except ValueError as error:
            raise SyntaxError(str(error)) from error
        self._size, self._mode = (header.width, header.height), header.mode
        self.info.update(info_of(metadata))

    def draft(
        self, mode: str | None, size: tuple[int, int] | None
    ) -> tuple[str, tuple[int, int, float, float]] | None:
        """Choose the smallest preview that is not smaller than the picture fitted into ``size``.
        Returns the mode, which stays as it is, and the box of the picture in the preview; None if
        a preview is chosen already, or pixels are loaded. None, too, with transparency: a preview
        averages it apart from the colours, which Pillow weights by it."""
        if not self.encoded or self.scale > 1 or not size or self.mode.endswith("A"):
            return None
        width, height = self.size
        largest = max(width / max(size[0], 1), height / max(size[1], 1))
        self.scale = max(scale for scale in (1, *PREVIEW_SCALES) if scale <= max(largest, 1))
        self._size = -(-width // self.scale), -(-height // self.scale)
        return self.mode, (0, 0, width / self.scale, height / self.scale)

    def thumbnail(
        self,
        size: tuple[float, float],
        resample: Image.Resampling = Image.Resampling.BICUBIC,
        reducing_gap: float | None = 1.0,
    ) -> None:
        """``Image.thumbnail``, by default of a preview of at least its own size, not twice that."""
        super().thumbnail(size, resample, reducing_gap)

    @property
    def most_pixels(self) -> int:
        """The limit of pixels for ``unpack``: the size of the file, which Pillow has checked."""
        return self.width * self.height * self.scale**2

    def verify(self) -> None:
        """Check the file without decoding its pixels. SyntaxError, as Pillow's plugins raise it, if
        it is damaged."""
        if self.encoded:
            from xfr.file import unpack

            try:
                unpack(self.encoded, self.most_pixels)
            except ValueError as error:
                raise SyntaxError(str(error)) from error
        super().verify()

    def load(self) -> "Image.core.PixelAccess | None":
        """Decode the pixels. OSError if the file is damaged, or its checkpoint is not there."""
        if self.encoded:
            from xfr.file import unpack
            from xfr.library import decoded

            try:
                self.im = decoded(unpack(self.encoded, self.most_pixels), scale=self.scale).im
            except ValueError as error:
                raise OSError(str(error)) from error
            self.encoded = b""
            if self.fp and self._exclusive_fp:
                self.fp.close()
            self.fp = None
        return super().load()


def save(image: Image.Image, stream: IO[bytes], filename: str | bytes) -> None:
    """Encode an image with its ``encoderinfo``. OSError for its mode, ValueError for settings and
    damaged EXIF."""
    from xfr.library import ENCODED_MODES, as_picture, encoded
    from xfr.metadata import read_metadata

    if image.mode not in ENCODED_MODES:
        raise OSError(f"cannot write mode {image.mode} as {FORMAT_NAME}")
    options = {name: value for name, value in image.encoderinfo.items() if value is not None}
    given: dict[str | tuple[int, int], Any] = {
        name: options[name] for name in METADATA_NAMES if name in options
    }
    if isinstance(given.get("exif"), Image.Exif):
        given["exif"] = given["exif"].tobytes()
    if isinstance(given.get("xmp"), str):
        given["xmp"] = given["xmp"].encode()
    described = image.copy()
    described.info = image.info | given
    picture = as_picture(described)
    described.info = given
    notices: list[str] = []
    metadata, _ = read_metadata(described, notices)
    if notices:
        raise ValueError(f"cannot write the picture: {notices[0]}")
    picture = replace(picture, metadata=replace(metadata, icc=picture.metadata.icc))
    settings = {name: options[name] for name in SAVE_SETTINGS if name in options}
    stream.write(encoded(picture, options.get("checkpoint", "visual"), **settings))


def register() -> None:
    Image.register_open(FORMAT_NAME, XfrImageFile, lambda prefix: prefix.startswith(b"XFR"))
    Image.register_save(FORMAT_NAME, save)
    Image.register_extension(FORMAT_NAME, ".xfr")
    Image.register_mime(FORMAT_NAME, "image/x-xfr")
