import os
import runpy
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A shell's background jobs ignore Ctrl-C, and so would the scripts that the tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

import pytest  # noqa: E402
from hypothesis import settings  # noqa: E402
from PIL import Image  # noqa: E402

SLOW = Path(__file__).with_name("slow.txt")  # names of tests, and the seconds that they took
SLOW_SECONDS = 1.0
WHOLE_PROGRAM = {"script", "shell", "module", "train"}  # fixtures that run one

settings.register_profile("calm", deadline=None, derandomize=True, max_examples=40, database=None)
settings.load_profile("calm")


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory) -> dict[str, Path]:
    """A tiny untrained checkpoint of each architecture, each alone in its folder."""
    from helpers import ARCHS, save_tiny

    folder = tmp_path_factory.mktemp("checkpoints")
    return {arch: save_tiny(folder / arch / "tiny.tar", arch) for arch in ARCHS}


@pytest.fixture
def script(monkeypatch, capfd):
    """Run a script of the project in this process, in the folder where the test is.

    Returns its exit code, stdout and stderr, as a shell would see them.
    """
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)  # which scripts set

    def run(name: str, *args) -> SimpleNamespace:
        monkeypatch.setattr(sys, "argv", [str(ROOT / f"{name}.py"), *map(str, args)])
        capfd.readouterr()
        code, message = 0, ""
        try:
            runpy.run_path(str(ROOT / f"{name}.py"), run_name="__main__")
        except SystemExit as end:
            code, message = end.code or 0, ""
            if isinstance(code, str):
                code, message = 1, code
        out, err = capfd.readouterr()
        return SimpleNamespace(code=code, out=out, err=err + message)

    return run


@pytest.fixture
def shell():
    """Run a script of the project as a separate process."""
    from helpers import run_process

    def run(name: str, *args, cwd=None) -> SimpleNamespace:
        return run_process([sys.executable, ROOT / f"{name}.py", *args], cwd)

    return run


@pytest.fixture
def module():
    """Run a module of the project as a separate process, as ``python -m`` does."""
    from helpers import run_process

    def run(name: str, *args) -> SimpleNamespace:
        return run_process([sys.executable, "-m", name, *args], ROOT)

    return run


@pytest.fixture
def workplace(tmp_path, monkeypatch) -> Path:
    """An empty folder, which is also the current one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


# Tiers: tests are marked as slow by the time that they took when they were last measured.


def name_of(nodeid: str) -> str:
    """A test without its parameters."""
    return nodeid.partition("[")[0]


def pytest_addoption(parser) -> None:
    parser.addoption("--measure", action="store_true", help=f"write {SLOW.name} anew")


def pytest_collection_modifyitems(config, items) -> None:
    slow = {line.split()[0] for line in SLOW.read_text().splitlines()} if SLOW.exists() else set()
    for item in items:
        if name_of(item.nodeid) in slow:
            item.add_marker(pytest.mark.slow)
        if WHOLE_PROGRAM & set(item.fixturenames):
            item.add_marker(pytest.mark.scripts)


def pytest_terminal_summary(terminalreporter, config) -> None:
    if not config.getoption("--measure"):
        return
    seconds: dict[str, float] = {}
    for reports in terminalreporter.stats.values():
        for report in reports:
            if hasattr(report, "duration"):
                name = name_of(report.nodeid)
                seconds[name] = seconds.get(name, 0) + report.duration
    lines = [f"{name} {time:.0f}\n" for name, time in seconds.items() if time >= SLOW_SECONDS]
    SLOW.write_text("".join(sorted(lines)))
