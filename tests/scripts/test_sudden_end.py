import os
import random
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers import ROOT, colour, run_process, save_png

from model import load_codec
from model.checkpoint import load_checkpoint
from utils.files import atomic_write, find_files
from xfr.file import unpack

PICTURES = 150
MOMENTS = random.Random(0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for index in range(PICTURES):
        save_png(folder / f"{index:03}.png", colour(96, 128, index))
    return folder


def flags_of(folder: Path, out: Path, checkpoints: dict) -> list[str]:
    flags = ["--image_folder", folder, "--out_folder", out, "--model", checkpoints["binary"]]
    return [str(flag) for flag in flags]


def end_when(condition, how: signal.Signals, name: str, flags: list, cwd: Path | None = None):
    """Start a script and send it a signal a moment after ``condition()`` is true."""
    process = subprocess.Popen(
        [sys.executable, str(ROOT / f"{name}.py"), *map(str, flags)], cwd=cwd,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not condition() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(MOMENTS.uniform(0, 0.02))
    process.send_signal(how)
    _, err = process.communicate(timeout=60)
    return process.returncode, err


def at_least(count: int, folder: Path, pattern: str):
    return lambda: len(list(folder.glob(pattern))) >= count


@pytest.fixture(scope="module")
def packed(folder, checkpoints, tmp_path_factory) -> Path:
    packed = tmp_path_factory.mktemp("packed")
    run_process([sys.executable, ROOT / "encode.py", *flags_of(folder, packed, checkpoints)])
    assert len(list(packed.glob("*.xfr"))) == PICTURES
    return packed


@pytest.mark.slow
@pytest.mark.parametrize("name", ["encode", "decode"])
def test_kill_9_leaves_only_complete_files_and_a_second_run_completes_them(
    script, folder, packed, checkpoints, tmp_path, name
):
    source, kind = (folder, "xfr") if name == "encode" else (packed, "bmp")
    flags = ["--model", checkpoints["binary"]]
    flags += ["--image_folder" if name == "encode" else "--compressed_folder", source]
    assert script(name, *flags, "--out_folder", tmp_path / "finished").code == 0
    expected = {path.name: path.read_bytes() for path in (tmp_path / "finished").iterdir()}
    assert len(expected) == PICTURES
    for count in (1, 10, 30):
        out = tmp_path / f"killed{count}"
        to_out = [*flags, "--out_folder", out]
        code, _ = end_when(at_least(count, out, f"*.{kind}"), signal.SIGKILL, name, to_out)
        left = {path.name: path.read_bytes() for path in out.glob(f"*.{kind}")}
        assert code == -signal.SIGKILL and count <= len(left) < PICTURES
        assert all(expected[name] == data for name, data in left.items())
        result = script(name, *to_out, "--skip_existing")
        assert result.code == 0
        assert f"{PICTURES - len(left)} {name}d, {len(left)} skipped" in result.out
        assert {path.name: path.read_bytes() for path in out.glob(f"*.{kind}")} == expected


@pytest.mark.slow
def test_kill_9_leaves_the_old_scores_or_the_new(script, folder, packed, checkpoints, tmp_path):
    decoded, scores = tmp_path / "decoded", tmp_path / "out/scores/scores.csv"
    flags = ["--model", checkpoints["binary"], "--compressed_folder", packed]
    assert script("decode", *flags, "--out_folder", decoded).code == 0
    flags = ["--folder_path_original", folder, "--folder_path_compressed", packed]
    flags += ["--folder_path_reconstructed", decoded]
    assert run_process([sys.executable, ROOT / "test.py", *flags], tmp_path).code == 0
    new, old = scores.read_bytes(), b"file,width,height,psnr\nold,1,1,1\n"
    assert new.count(b"\n") == PICTURES + 2
    seen = set()
    start = time.monotonic()
    for condition in (
        lambda: time.monotonic() > start + MOMENTS.uniform(0, 3),
        at_least(1, scores.parent, ".*.part"),
        lambda: scores.read_bytes() != old,
    ):
        scores.write_bytes(old)
        end_when(condition, signal.SIGKILL, "test", flags, tmp_path)
        seen.add(scores.read_bytes())
    assert seen <= {old, new} and new in seen


@pytest.mark.slow
def test_kill_9_leaves_training_states_that_resume(tmp_path):
    for index in range(6):
        save_png(tmp_path / f"dataset/{index}.png", colour(70, 80, index))
    last, best = tmp_path / "out/last.tar", tmp_path / "out/best.tar"
    flags = ["--crop_size", 64, "--batch_size", 2, "--workers", 0, "--num_of_epochs", 10_000]
    epoch = 0
    for condition in (
        at_least(1, last.parent, "last.tar"),
        at_least(1, last.parent, ".*.part"),
        lambda: load_checkpoint(last)["epoch"] >= 5,
    ):
        resume = ["--checkpoint_path", last] if last.exists() else []
        code, _ = end_when(condition, signal.SIGKILL, "train", [*flags, *resume], tmp_path)
        assert code == -signal.SIGKILL
        state = load_checkpoint(last)
        assert state["epoch"] >= max(epoch, 1)
        assert len(state["history"]["train_loss"]) == state["epoch"]
        if best.exists():
            assert load_codec(load_checkpoint(best)).arch == "binary"
        epoch = state["epoch"]
    flags[-1] = epoch + 1
    command = [sys.executable, ROOT / "train.py", *flags, "--checkpoint_path", last]
    result = run_process(command, tmp_path)
    assert result.code == 0 and f"resumed at epoch {epoch}" in result.out
    assert load_checkpoint(last)["epoch"] == epoch + 1


def test_what_a_killed_process_leaves_is_hidden_and_in_nobodys_way(tmp_path):
    path = tmp_path / "file.xfr"
    path.write_bytes(b"old")
    killed = (
        "import os, pathlib, sys; from utils.files import atomic_write\n"
        "with atomic_write(pathlib.Path(sys.argv[1])) as stream:\n"
        "    stream.write(b'new'); stream.flush(); os.kill(os.getpid(), 9)"
    )
    assert run_process([sys.executable, "-c", killed, path], ROOT).code == -signal.SIGKILL
    (stray,) = set(tmp_path.iterdir()) - {path}
    assert stray.name.startswith(".") and stray.suffix == ".part"
    assert path.read_bytes() == b"old"
    assert find_files(tmp_path, {"xfr", "part"}, recursive=True) == [path]
    with atomic_write(path) as stream:
        stream.write(b"new")
    assert path.read_bytes() == b"new" and stray.read_bytes() == b"new"


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_sigterm_say_one_line_and_leave_nothing_but_complete_files(
    folder, checkpoints, tmp_path, how
):
    flags = flags_of(folder, tmp_path, checkpoints)
    code, err = end_when(at_least(5, tmp_path, "*.xfr"), how, "encode", flags)
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


def test_the_old_file_is_there_until_the_new_one_is_complete(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with path.open("rb") as reader:
        with atomic_write(path) as stream:
            stream.write(b"new")
            stream.flush()
            assert path.read_bytes() == b"old"
        assert reader.read() == b"old"  # a new file in its place, not new content in it
    assert path.read_bytes() == b"new" and list(tmp_path.iterdir()) == [path]


def test_two_processes_may_write_the_same_file_at_once(tmp_path):
    path = tmp_path / "file"
    with atomic_write(path) as first:
        first.write(b"fir")
        with atomic_write(path) as second:
            second.write(b"second")
        assert path.read_bytes() == b"second"
        first.write(b"st")
    assert path.read_bytes() == b"first" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o604])
def test_a_file_that_is_made_again_keeps_its_mode_from_the_first_byte_on(tmp_path, mode):
    path = tmp_path / "file"
    path.touch(mode)
    path.chmod(mode)
    with atomic_write(path) as stream:
        (temporary,) = set(tmp_path.iterdir()) - {path}
        assert temporary.stat().st_mode & 0o7777 == mode
        stream.write(b"new")
    assert path.stat().st_mode & 0o7777 == mode and path.read_bytes() == b"new"


def test_a_folder_is_synced_once_the_file_has_its_name(tmp_path, monkeypatch):
    path, synced, sync = tmp_path / "file", [], os.fsync

    def note(descriptor: int) -> None:
        is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        synced.append("folder" if is_folder else "file")
        assert path.exists() == is_folder
        sync(descriptor)

    monkeypatch.setattr("os.fsync", note)
    with atomic_write(path) as stream:
        stream.write(b"new")
    assert synced == ["file", "folder"]


def test_a_written_file_has_the_mode_of_any_other(tmp_path):
    (tmp_path / "other").touch()
    with atomic_write(tmp_path / "file"):
        pass
    modes = [(tmp_path / name).stat().st_mode for name in ("file", "other")]
    assert modes[0] == modes[1]
