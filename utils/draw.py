"""Draw pages of text, thin lines, patterns and small marks, to train on beside photographs.

examples:
  python -m utils.draw dataset/drawn/
  python -m utils.draw drawn/ --pages 20 --side 512 --seed 1

Photographs have few of these, and a codec that has never seen them makes letters and thin lines
wavy. A hundred pages of 768x768 are 8 % of the crops of 1,400 photographs. The same command draws
the same pages wherever the same version of Pillow is installed.
"""

import random
from argparse import Namespace
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from utils.console import make_parser, number, run
from utils.files import atomic_write, check_folder

WORDS = (
    "the of and light over rivers Sky 1024 glass stone every window 37.5 north paper signal "
    "Quality (left) garden % measure yellow time. letters, image = machine: bridge & winter"
).split()
LONGEST_LINE = 12  # words

Colour = tuple[int, int, int]
Box = tuple[int, int, int, int]  # left, top, right, bottom


def parse_args() -> Namespace:
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("folder", metavar="FOLDER", type=Path, help="directory for the pages")
    add("--pages", type=number(int, 1), default=100, help="number of pages")
    add("--side", type=number(int, 64), default=768, help="width and height in pixels")
    add("--seed", type=int, default=0, help="seed of all random numbers")
    return parser.parse_args()


def main(args: Namespace) -> int:
    check_folder(args.folder)
    for i in range(args.pages):
        path = args.folder / f"drawn-{args.seed}-{i:04}.png"
        if path.exists():
            raise ValueError(f"{path} exists: choose another folder or --seed")
        with atomic_write(path) as stream:
            Page(args.side, random.Random(f"{args.seed} {i}")).draw().save(stream, "png")
    return 0


class Page:
    """A page of cells, of which each has a drawing of its own kind."""

    def __init__(self, side: int, generator: random.Random):
        self.side, self.random = side, generator
        self.image = self.background()
        self.canvas = ImageDraw.Draw(self.image)

    def draw(self) -> Image.Image:
        """The page, in mode RGB."""
        kinds = (self.text, self.text, self.lines, self.pattern, self.marks)
        columns, rows = self.random.choice(((1, 2), (2, 2), (2, 3), (3, 3)))
        width, height = self.side // columns, self.side // rows
        for top in range(0, rows * height, height):
            for left in range(0, columns * width, width):
                self.random.choice(kinds)((left, top, left + width, top + height))
        return self.image

    def colour(self) -> Colour:
        """A saturated colour, or any, or nearly black or white."""
        draw = self.random.randrange
        kind = draw(4)
        if kind == 0:
            saturated = [draw(2) * 255 for _ in range(3)]
            return saturated[0], saturated[1], saturated[2]
        if kind == 1:
            return draw(256), draw(256), draw(256)
        level = draw(40) if kind == 2 else 255 - draw(40)
        return level, level, level

    def background(self) -> Image.Image:
        """An image of one colour, or of a gradient."""
        if self.random.random() < 0.5:
            return Image.new("RGB", (self.side, self.side), self.colour())
        small = Image.new("RGB", (2, 2))
        small.putdata([self.colour() for _ in range(4)])
        return small.resize((self.side, self.side), Image.Resampling.BICUBIC)

    def text(self, box: Box) -> None:
        """Lines of words, often on a rectangle of another colour."""
        left, top, right, bottom = box
        if self.random.random() < 0.6:
            self.canvas.rectangle((left, top, right - 1, bottom - 1), fill=self.colour())
        colour, size = self.colour(), self.random.choice((9, 10, 11, 12, 14, 16, 20, 28, 40))
        font = ImageFont.load_default(size)
        for y in range(top + 4, bottom - size - 4, round(size * self.random.uniform(1.2, 1.8))):
            words = self.random.choices(WORDS, k=self.random.randint(1, LONGEST_LINE))
            line = " ".join(words)
            while self.canvas.textlength(line, font) > right - left - 8 and " " in line:
                line = line.rpartition(" ")[0]
            self.canvas.text((left + 4, y), line, colour, font)

    def lines(self, box: Box) -> None:
        """Thin lines in all directions, and circles, bright or dark."""
        left, top, right, bottom = box
        for _ in range(self.random.randint(4, 24)):
            x, y = self.random.uniform(left, right), self.random.uniform(top, bottom)
            width = self.random.choice((1, 1, 1, 2, 3))
            if self.random.random() < 0.2:
                radius = self.random.uniform(4, (bottom - top) / 3)
                self.canvas.circle((x, y), radius, outline=self.colour(), width=width)
            else:
                end = self.random.uniform(left, right), self.random.uniform(top, bottom)
                self.canvas.line((x, y, *end), self.colour(), width)

    def pattern(self, box: Box) -> None:
        """Stripes, a grid or a chequerboard of 2 to 16 pixels."""
        left, top, right, bottom = box
        first, second, step = self.colour(), self.colour(), self.random.randint(2, 16)
        kind = self.random.choice(("columns", "rows", "grid", "chequers"))
        thin = self.random.choice((1, max(1, step // 2)))
        self.canvas.rectangle((left, top, right - 1, bottom - 1), fill=first)
        if kind in ("columns", "grid"):
            for x in range(left, right, step):
                self.canvas.rectangle((x, top, min(x + thin, right) - 1, bottom - 1), fill=second)
        if kind in ("rows", "grid"):
            for y in range(top, bottom, step):
                self.canvas.rectangle((left, y, right - 1, min(y + thin, bottom) - 1), fill=second)
        if kind == "chequers":
            for y in range(top, bottom - step + 1, step):
                for x in range(left + (y - top) % (2 * step), right - step + 1, 2 * step):
                    self.canvas.rectangle((x, y, x + step - 1, y + step - 1), fill=second)

    def marks(self, box: Box) -> None:
        """Small filled shapes, many of them saturated."""
        left, top, right, bottom = box
        for _ in range(self.random.randint(10, 60)):
            x, y = self.random.randrange(left, right), self.random.randrange(top, bottom)
            size = self.random.randint(2, 14)
            shape = self.random.choice((self.canvas.rectangle, self.canvas.ellipse))
            shape((x, y, min(x + size, right - 1), min(y + size, bottom - 1)), fill=self.colour())


if __name__ == "__main__":
    run(main, parse_args())
