import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers import ROOT, colour, save_png

from utils.bitstream import unpack
from utils.files import atomic_write

PICTURES = 150


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for index in range(PICTURES):
        save_png(folder / f"{index:03}.png", colour(96, 128, index))
    return folder


def flags_of(folder: Path, out: Path, checkpoints: dict) -> list[str]:
    flags = ["--image_folder", folder, "--out_folder", out, "--model", checkpoints["binary"]]
    return [str(flag) for flag in flags]


def end_encode_after(count: int, how: signal.Signals, flags: list[str], out: Path):
    """Start encode.py and send it a signal once there are some more files than ``count``."""
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "encode.py"), *flags],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while len(list(out.glob("*.xfr"))) < count and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(random.Random(count).uniform(0, 0.02))
    process.send_signal(how)
    _, err = process.communicate(timeout=60)
    return process.returncode, err


def test_kill_9_leaves_only_whole_files_and_a_second_run_completes_them(
    script, folder, checkpoints, tmp_path
):
    flags = flags_of(folder, tmp_path / "whole", checkpoints)
    assert script("encode", *flags).code == 0
    expected = {path.name: path.read_bytes() for path in (tmp_path / "whole").iterdir()}
    assert len(expected) == PICTURES
    for count in (1, 10, 30):
        out = tmp_path / f"killed{count}"
        flags = flags_of(folder, out, checkpoints)
        code, _ = end_encode_after(count, signal.SIGKILL, flags, out)
        left = {path.name: path.read_bytes() for path in out.glob("*.xfr")}
        assert code == -signal.SIGKILL and count <= len(left) < PICTURES
        assert all(unpack(data) and expected[name] == data for name, data in left.items())
        result = script("encode", *flags, "--skip_existing")
        assert result.code == 0
        assert f"{PICTURES - len(left)} encoded, {len(left)} skipped" in result.out
        assert {path.name: path.read_bytes() for path in out.glob("*.xfr")} == expected


def test_ctrl_c_says_one_line_and_leaves_nothing_but_whole_files(folder, checkpoints, tmp_path):
    flags = flags_of(folder, tmp_path, checkpoints)
    code, err = end_encode_after(5, signal.SIGINT, flags, tmp_path)
    assert code == 130 and "Traceback" not in err
    assert err.splitlines()[-1] == "encode.py: interrupted; finished files are kept"
    assert all(path.suffix == ".xfr" and unpack(path.read_bytes()) for path in tmp_path.iterdir())


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_exception_while_writing_leaves_the_old_file_and_no_other(tmp_path, error):
    path = tmp_path / "folder/file"
    with atomic_write(path) as stream:
        stream.write(b"old")
    with pytest.raises(error), atomic_write(path) as stream:
        stream.write(b"new")
        raise error
    assert path.read_bytes() == b"old" and list(path.parent.iterdir()) == [path]


def test_an_exception_while_writing_a_new_file_leaves_none(tmp_path):
    with pytest.raises(OSError), atomic_write(tmp_path / "file") as stream:
        stream.write(b"new")
        raise OSError
    assert list(tmp_path.iterdir()) == []


def test_the_old_file_is_there_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with path.open("rb") as reader:
        with atomic_write(path) as stream:
            stream.write(b"new")
            stream.flush()
            assert path.read_bytes() == b"old"
        assert reader.read() == b"old"  # a new file in its place, not new content in it
    assert path.read_bytes() == b"new" and list(tmp_path.iterdir()) == [path]


def test_a_written_file_has_the_mode_of_any_other(tmp_path):
    (tmp_path / "other").touch()
    with atomic_write(tmp_path / "file"):
        pass
    modes = [(tmp_path / name).stat().st_mode for name in ("file", "other")]
    assert modes[0] == modes[1]
