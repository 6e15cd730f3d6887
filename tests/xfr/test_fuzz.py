from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fuzz_worker import misbehave
from helpers import ARCHS, colour, tiny_codec
from hypothesis import given
from hypothesis import strategies as st

from model.binary.packing import MAX_DIGITS, DigitReader
from model.bytestream import Reader, lzma_compress, pack_chunk, pack_number
from model.limits import MAX_PIXELS
from tests.fuzz import Worker, fuzz, memory_bound, outcome, virtual_bytes, work
from tests.mutants import Mutants, assemble, dissect, sealed
from xfr.encoder import Encoder
from xfr.file import Xfr, pack, unpack

LIMIT = 1 << 14  # pixels
CODER = tiny_codec("hyperprior").coder
DIGITS = tiny_codec("binary").digits
needs_proc = pytest.mark.skipif(virtual_bytes() is None, reason="memory is bounded on Linux only")


def refused(function, *args) -> bool:
    """Whether it raised a ValueError of one line. Any other exception passes through."""
    try:
        function(*args)
    except ValueError as error:
        assert len(str(error).splitlines()) == 1
        return True
    return False


# Files


@pytest.mark.parametrize("arch", ARCHS)
def test_every_mutant_is_refused_or_decoded(checkpoints, arch):
    worker = Worker(work, checkpoints[arch], 0, LIMIT, 20, 256)
    result = fuzz(worker, range(300), "--seed 0")
    assert not result.failures
    ends = sum(result.counts.values(), start=type(result.counts["any"])())
    assert ends["refused"] > 100 and ends["decoded"] > 20 and ends.total() == 300


@pytest.mark.parametrize("arch", ARCHS)
def test_mutants_depend_on_seed_and_index_alone(checkpoints, arch):
    first, again, other = (Mutants(Encoder(checkpoints[arch]), seed, LIMIT) for seed in (0, 0, 1))
    forwards, backwards = range(50), reversed(range(50))
    mutants = [again.mutant(i) for i in backwards]
    assert [first.mutant(i) for i in forwards] == mutants[::-1]
    assert first.mutant(10) != other.mutant(10)


@pytest.mark.parametrize("arch", ARCHS)
def test_a_file_that_is_taken_apart_goes_together_again(checkpoints, arch):
    for data in Mutants(Encoder(checkpoints[arch]), 0, LIMIT).packed:
        assert assemble(dissect(data)) == data


def test_the_command_prints_a_table(module, checkpoints):
    result = module("tests.fuzz", "--model", checkpoints["binary"], "--first", 3, "--count", 40)
    assert result.code == 0, result.err
    assert "40 mutants" in result.out and "0 failed" in result.out


@needs_proc
@pytest.mark.parametrize("arch", ARCHS)
def test_the_declared_size_alone_allocates_nothing(arch):
    codec = tiny_codec(arch)
    tile = codec.compress(colour(codec.STRIDE, codec.TILE), 50)
    width = MAX_PIXELS // codec.STRIDE
    codec.decompress(tile, codec.STRIDE, codec.TILE, 50)
    for payload in (tile, 3 * tile):
        with memory_bound(32), pytest.raises(ValueError, match="truncated payload"):
            codec.decompress(payload, codec.STRIDE, width, 50)


@pytest.mark.parametrize(("width", "height"), [(1, MAX_PIXELS), (MAX_PIXELS // 3, 3)])
def test_a_picture_that_is_mostly_padding_counts_with_its_padding(width, height):
    """The networks see at least 64 pixels in each direction."""
    with pytest.raises(ValueError, match=f"{width}x{height} pixels are more than the limit"):
        unpack(pack(Xfr(1, 0, width, height, False, 50, b"")))


# The fuzzer's own checks


def good(height=2, width=3, **changes):
    xfr = SimpleNamespace(shape=(height, width), grey=False)
    pixels = np.zeros((2, 3, 3), np.uint8)
    return xfr, SimpleNamespace(**{"pixels": pixels, "alpha": None, **changes})


def test_what_is_as_it_should_be_is_told_from_what_is_not():
    def fail(error):
        raise error

    assert outcome(good, 100) == "decoded"
    assert outcome(lambda: fail(ValueError("damaged")), 100) == "refused"
    assert "not one line" in outcome(lambda: fail(ValueError("a\nb")), 100)
    assert "not one line" in outcome(lambda: fail(ValueError()), 100)
    assert outcome(lambda: fail(KeyError("a")), 100).startswith("KeyError ('a') in test_fuzz.py:")
    assert "declared (9, 3, 3)" in outcome(lambda: good(height=9), 100)
    assert "alpha (1, 1)" in outcome(lambda: good(alpha=np.zeros((1, 1))), 100)


@needs_proc
@pytest.mark.parametrize("allocate", [bytearray, np.empty, torch.empty])
def test_a_large_allocation_is_noticed(allocate):
    assert "MemoryError" in (end := outcome(lambda: allocate(1 << 30), 100)) or "allocate" in end
    assert len(allocate(1 << 28)) == 1 << 28


def test_hangs_and_crashes_are_noticed_and_the_run_goes_on(tmp_path, capfd):
    result = fuzz(Worker(misbehave), range(5), "--seed 7", seconds=0.5, keep=tmp_path)
    wait, crash, loop = result.failures
    assert wait == "kind 1: hangs: no answer after 5 s [--seed 7 --first 1 --count 1]"
    assert crash.startswith("kind 2: the process has died with exit code 9 ")
    assert loop.startswith("kind 3: hangs: more than 0.5 s of processor time ")
    assert "--first 2 --count 1" in crash and wait in capfd.readouterr().err
    assert result.counts["kind 0"]["refused"] == result.counts["kind 4"]["refused"] == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1.xfr", "2.xfr", "3.xfr"]
    rows = [line.split() for line in result.table().splitlines()]
    assert rows[2] == ["kind", "1", "0", "0", "1"] and rows[-1] == ["all", "2", "0", "3"]


# Arbitrary bytes


@given(st.binary(max_size=300), st.integers(0, 15), st.integers(0, 100))
def test_unpack_of_any_bytes(data, flags, quality):
    head = b"XFR\x01\x01" + bytes(8) + bytes([flags, quality])
    for content in (data, b"XFR\x01" + data, head + data, head + b"\x05\x05" + data):
        refused(unpack, content)
        refused(unpack, sealed(content))


@given(st.binary(max_size=100), st.lists(st.integers(0, 2**35), max_size=5))
def test_readers_of_any_bytes(data, counts):
    def read():
        reader = Reader(data, "example")
        for count in counts:
            assert 0 <= reader.number() < 2**35
            assert len(reader.take(count % 7)) == count % 7
            reader.take(count)

    refused(read)


@st.composite
def planes(draw) -> bytes:
    """An intact lzma stream of any bytes, and any plain digits."""
    return pack_chunk(lzma_compress(draw(st.binary(max_size=80)))) + draw(st.binary(max_size=20))


@given(planes() | st.binary(max_size=60), st.lists(st.integers(0, 60), max_size=4))
def test_digits_of_any_bytes(data, counts):
    def read():
        digits = DigitReader(Reader(data, "payload"))
        for count in counts:
            values = digits.read(count)
            assert values.shape == (count,) and np.abs(values).max(initial=0) < 2**MAX_DIGITS
        digits.finish()

    refused(read)


@given(planes() | st.binary(max_size=60), st.integers(1, 9), st.integers(1, 9))
def test_latents_of_any_bytes(data, height, width):
    def read():
        y = DIGITS.decode(Reader(data, "payload"), height, width, torch.tensor([50]))
        assert y.shape == (1, 24, height, width)

    refused(read)


@given(st.binary(max_size=200), st.lists(st.binary(min_size=1, max_size=100), max_size=4))
def test_symbols_of_any_bytes(data, segments):
    def read():
        decoder = CODER.decoder(data)
        for segment in segments:
            index = np.frombuffer(segment, np.uint8) % 64
            values = decoder.decode(index)
            assert values.shape == index.shape and np.abs(values).max() <= 2**24
        decoder.finish()

    refused(read)


@given(st.lists(st.integers(0, 2**35 - 1), max_size=30), st.lists(st.integers(0, 2**32 - 1)))
def test_symbols_of_any_escapes_and_words(escapes, words):
    numbers = b"".join(map(pack_number, escapes))
    data = pack_chunk(numbers) + np.array(words, "<u4").tobytes()
    refused(lambda: CODER.decoder(data).decode(np.arange(64, dtype=np.uint8)))
