import io
import os
import pickle
import shutil
import signal
import tarfile
import warnings
import zipfile
from collections import OrderedDict
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import ARCHS, TINY, colour, full_latent, save_png, tiny_codec

from model import codec_class, load_codec
from model.checkpoint import fingerprint, load_checkpoint
from model.codec import AbsurdWeights
from tests.fuzz import memory_bound, virtual_bytes
from utils.training import Trainer, TrainingSettings
from xfr.decoder import Decoder
from xfr.encoder import Encoder, EncodingSettings
from xfr.images import Picture

HUGE = 10**9
needs_proc = pytest.mark.skipif(virtual_bytes() is None, reason="memory is bounded on Linux only")


@contextmanager
def soon(seconds: int = 20):
    """Fail if it takes longer, in processor time: how busy the machine is does not matter."""

    def fail(*_):
        pytest.fail(f"it takes more than {seconds} s")

    before = signal.signal(signal.SIGPROF, fail)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def load(path: Path):
    """Load a checkpoint, its codec and its name, as the scripts do."""
    checkpoint = load_checkpoint(path)
    return load_codec(checkpoint), fingerprint(checkpoint)


def refusal(path: Path, kind=ValueError) -> str:
    """The one line that the checkpoint is refused with, quickly and without warnings."""
    with warnings.catch_warnings(record=True) as caught, soon():
        warnings.simplefilter("always")
        with pytest.raises(kind) as error:
            load(path)
    assert not [str(warning.message) for warning in caught]
    message = str(error.value)
    assert len(message.splitlines()) == 1 and len(message) < 500 and message.isprintable()
    return message


@pytest.fixture
def alter(checkpoints, tmp_path):
    """Write a tiny checkpoint that ``change(checkpoint)`` has altered or replaced."""

    def write(arch: str, change, name="altered.tar") -> Path:
        checkpoint = load_checkpoint(checkpoints[arch])
        del checkpoint["fingerprint"]  # whoever alters the weights can alter this, too
        other = change(checkpoint)
        torch.save(checkpoint if other is None else other, tmp_path / name)
        return tmp_path / name

    return write


@pytest.fixture
def no_network(monkeypatch):
    """Fail where a network of any size is built."""
    for arch in ARCHS:
        built = lambda *_, **__: pytest.fail("a network was built")  # noqa: E731
        monkeypatch.setattr(codec_class(arch), "__init__", built)


@pytest.mark.parametrize("arch", ARCHS)
def test_a_good_checkpoint_is_loaded(alter, arch):
    codec, _ = load(alter(arch, lambda checkpoint: None))
    assert codec.config == TINY[arch]


# Code


class Code:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


def as_pickle(content, path: Path) -> None:
    path.write_bytes(pickle.dumps(content))


def as_old_format(content, path: Path) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize("write", [torch.save, as_old_format, as_pickle])
@pytest.mark.parametrize("place", ["checkpoint", "config", "weights", "history", "field", "format"])
def test_code_in_a_checkpoint_is_refused_and_does_not_run(
    checkpoints, tmp_path, monkeypatch, write, place
):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")  # our demand counts
    code, path = Code(tmp_path / "marker"), tmp_path / "stranger.tar"
    content = load_checkpoint(checkpoints["binary"])
    if place == "checkpoint":
        content = code
    elif place == "field":
        content["config"]["bits"] = code
    else:
        content[place] = code
    write(content, path)
    assert "stranger.tar is not a checkpoint" in refusal(path)
    assert not Path(code.folder).exists()
    with suppress(Exception):
        torch.load(path, weights_only=False)  # the trap itself works
    assert Path(code.folder).is_dir()


def test_code_that_python_names_in_other_ways_does_not_run(tmp_path):
    marker = tmp_path / "marker"
    protocol_0 = f"cos\nmkdir\n(V{marker}\ntR.".encode()
    instance = f"(V{marker}\nios\nmkdir\n.".encode()
    builtin = f"c__builtin__\neval\n(V__import__('os').mkdir('{marker}')\ntR.".encode()
    for content in (protocol_0, instance, builtin):
        (tmp_path / "stranger.tar").write_bytes(content)
        refusal(tmp_path / "stranger.tar")
        with zipfile.ZipFile(tmp_path / "stranger.tar", "w") as archive:
            archive.writestr("archive/data.pkl", content)
            archive.writestr("archive/version", "3\n")
        refusal(tmp_path / "stranger.tar")
    assert not marker.exists()


# Files that are no checkpoint


def zipped(**members: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in members.items():
            archive.writestr(f"archive/{name.replace('_', '.')}", content)
    return stream.getvalue()


def tarred(content: bytes) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        entry = tarfile.TarInfo("data.pkl")
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    return stream.getvalue()


JUNK = {
    "empty": b"",
    "one byte": b"\0",
    "text": b"This is no checkpoint.\nNot at all.\n" * 50,
    "random": np.random.default_rng(0).bytes(5000),
    "zeros": bytes(5000),
    "png": b"\x89PNG\r\n\x1a\n" + bytes(100),
    "a tar": tarred(b"content"),
    "an empty zip": zipped(),
    "a zip of something else": zipped(readme_txt=b"hello"),
    "a zip with an empty pickle": zipped(data_pkl=b"", version=b"3\n"),
    "a zip with a random pickle": zipped(data_pkl=bytes(range(256)), version=b"3\n"),
    "a TorchScript program": zipped(data_pkl=b"N.", constants_pkl=b"N.", version=b"3\n"),
    "the head of a zip": zipped(data_pkl=b"N.", version=b"3\n")[:40],
    "the end of a zip": b"PK\5\6" + bytes(18),
    "a pickled number": pickle.dumps(5),
    "a pickled dictionary": pickle.dumps({"format": 1, "arch": "binary"}),
    "deep nesting": b"]" * 100_000 + b"a" * 99_999 + b".",
    "an absurd length": b"\x80\x04\x8e" + b"\xff" * 7 + b"\x7f" + b"x" * 20,
    "an absurd array": b"cbuiltins\nbytearray\n(I" + b"9" * 17 + b"\ntR.",
}


@pytest.mark.parametrize("content", JUNK.values(), ids=JUNK)
def test_a_file_that_is_no_checkpoint_is_named(tmp_path, content):
    (tmp_path / "junk.tar").write_bytes(content)
    assert "junk.tar is not a checkpoint" in refusal(tmp_path / "junk.tar")


def test_what_is_no_file_is_named(tmp_path):
    for path in (tmp_path, tmp_path / "none.tar", tmp_path / "none" / "none.tar"):
        assert str(path) in refusal(path, FileNotFoundError)


@pytest.mark.parametrize("arch", ARCHS)
def test_every_truncation_is_refused(checkpoints, tmp_path, arch):
    content = checkpoints[arch].read_bytes()
    for length in np.linspace(0, len(content) - 1, 40).astype(int):
        (tmp_path / "cut.tar").write_bytes(content[:length])
        assert "cut.tar is not a checkpoint" in refusal(tmp_path / "cut.tar")


@pytest.mark.parametrize("arch", ARCHS)
def test_a_damaged_checkpoint_is_refused_or_is_the_same(checkpoints, tmp_path, arch):
    """Some bytes of an archive mean nothing, such as those between its entries."""
    content, rng = checkpoints[arch].read_bytes(), np.random.default_rng(0)
    whole = load_checkpoint(checkpoints[arch])
    pickled, refused = content.index(b"data.pkl"), 0
    for index in range(150):
        damaged = bytearray(content)
        if index % 2:
            positions = rng.integers(0, len(content), 4)
        else:  # where names, shapes and types are
            positions = rng.integers(pickled, pickled + 4000, 2)
        for position in positions.tolist():
            damaged[position] ^= 1 << rng.integers(8)
        (tmp_path / "damaged.tar").write_bytes(damaged)
        try:
            checkpoint = load_checkpoint(tmp_path / "damaged.tar")
        except ValueError as error:
            refused += 1
            assert len(str(error).splitlines()) == 1
        else:
            assert checkpoint["fingerprint"] == whole["fingerprint"]
            assert checkpoint["history"] == whole["history"]
    assert refused > 130


@pytest.mark.parametrize("instruction", [b"\x96" + b"\xff" * 7 + b"\x0f", b"r\xff\xff\xff\x7f"])
def test_an_instruction_that_takes_memory_is_refused_before_it_does(tmp_path, instruction):
    pickled = b"\x80\x05}" + instruction + b"."
    (tmp_path / "bomb.tar").write_bytes(zipped(data_pkl=pickled, version=b"3\n"))
    with memory_bound(64):
        refusal(tmp_path / "bomb.tar")


def test_a_pickle_of_many_small_objects_is_refused_before_they_are_made(tmp_path):
    pickled = b"\x80\x02" + b"}" * 2**21 + b"."
    (tmp_path / "bomb.tar").write_bytes(zipped(data_pkl=pickled, version=b"3\n"))
    with memory_bound(64):
        assert "its pickle has more than 1048576 bytes" in refusal(tmp_path / "bomb.tar")


def test_bytes_that_are_asked_for_are_not_made(tmp_path):
    pickled = b"\x80\x02cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R."
    (tmp_path / "bomb.tar").write_bytes(zipped(data_pkl=pickled, version=b"3\n"))
    with memory_bound(64):
        assert "it asks for builtins bytearray" in refusal(tmp_path / "bomb.tar")


def test_an_archive_with_two_entries_of_one_name_is_refused(checkpoints, tmp_path):
    shutil.copy(checkpoints["binary"], tmp_path / "two.tar")
    with zipfile.ZipFile(tmp_path / "two.tar", "a") as archive:
        archive.writestr(zipfile.ZipInfo("other/data.pkl"), b"N.")
    assert "one name" in refusal(tmp_path / "two.tar")


# Dictionaries that are no checkpoint


def test_what_is_no_dictionary_is_refused(alter):
    for content in ([1, 2], torch.zeros(3), "text", 7):
        assert "not a checkpoint" in refusal(alter("binary", lambda _, content=content: content))


@pytest.mark.parametrize("key", ["format", "arch", "config", "weights", "history"])
def test_a_missing_key_is_named(alter, key):
    def remove(checkpoint):
        del checkpoint[key]

    message = refusal(alter("binary", remove))
    assert key in message and "altered.tar" in message


@pytest.mark.parametrize("key", ["format", "arch", "config", "weights", "history"])
def test_a_key_of_another_type_is_named(alter, key):
    for value in (None, [], 1.0, ("binary",), True, torch.ones(1)):
        path = alter("binary", lambda checkpoint, value=value: {**checkpoint, key: value})
        assert key in refusal(path)


@pytest.mark.parametrize("version", [0, 2, -1, 10**30])
def test_another_format_is_named(alter, version):
    message = refusal(alter("binary", lambda checkpoint: {**checkpoint, "format": version}))
    assert f"format {version}" in message


@pytest.mark.parametrize(
    "arch",
    ["", "ternary", "two\nlines", "\x1b[2J", "x" * 10**6, "model:BinaryCodec"],
)
def test_an_unknown_architecture_is_named_in_one_short_line(alter, arch):
    message = refusal(alter("binary", lambda checkpoint: {**checkpoint, "arch": arch}))
    assert "unknown architecture" in message


# Configurations


def laughs():
    """A list of 2^40 elements in 40 pieces."""
    content = [1]
    for _ in range(40):
        content = [content, content]
    return content


NUMBERS = [
    HUGE, 10**100, 2**31, 0, -1, -HUGE, 8.0, float("nan"), float("inf"), True, False, None, "8",
    "", b"8", [8], (8,), {}, {"a": 1}, 1j,
]  # fmt: skip
DEFAULTS = {arch: asdict(codec_class(arch).Config()) for arch in ARCHS}
FIELDS = {arch: [k for k, v in one.items() if type(v) is int] for arch, one in DEFAULTS.items()}
PAIRS = {arch: [k for k, v in one.items() if type(v) is tuple] for arch, one in DEFAULTS.items()}
TUPLES = [
    (), (8,), (8, 8, 8), [8], [8, 8, 8], (8, -1), (-1, 8), (8, HUGE), (HUGE, 8), (8, 8.0),
    (True, 8), ("8", "8"), "88", 8, None, {8: 8, 9: 9}, ((8,), (8,)), (8, None),
]  # fmt: skip
MISFITS = {  # of numbers, each of which is allowed
    "binary": [
        {"rate_points": 1},
        {"latent": 12},
        {"latent": 193},
        {"groups": (3, 12)},
        {"groups": (12, 8)},
    ],
    "hyperprior": [{"rate_points": 1}, {"latent": 30}, {"latent": 1}],
}


PLACES = [
    *((arch, name, NUMBERS) for arch in ARCHS for name in FIELDS[arch]),
    *((arch, name, TUPLES) for arch in ARCHS for name in PAIRS[arch]),
]


def refuse_changes(alter, arch: str, changes: dict) -> None:
    message = refusal(alter(arch, lambda checkpoint: checkpoint["config"].update(changes)))
    foreign = "not a checkpoint" in message  # bytes, or keys that are no text
    assert foreign or any(name in message for name in changes), changes


@pytest.mark.parametrize(("arch", "name", "values"), PLACES, ids=lambda value: str(value)[:30])
def test_an_absurd_configuration_is_refused_before_a_network_is_built(
    alter, no_network, arch, name, values
):
    for value in values:
        refuse_changes(alter, arch, {name: value})


@pytest.mark.parametrize("arch", MISFITS)
def test_numbers_that_do_not_fit_each_other_are_refused(alter, no_network, arch):
    for changes in MISFITS[arch]:
        refuse_changes(alter, arch, changes)


@pytest.mark.parametrize("arch", ARCHS)
def test_tensors_and_bombs_in_a_configuration_are_refused(alter, no_network, arch):
    for value in (torch.tensor(8), torch.ones(2), laughs(), "x" * 10**6, (8,) * 10**5):
        for name in FIELDS[arch][:1] + PAIRS[arch][:1]:
            refuse_changes(alter, arch, {name: value})


@pytest.mark.parametrize("arch", ARCHS)
def test_missing_and_unknown_fields_are_refused(alter, no_network, arch):
    first = next(iter(DEFAULTS[arch]))  # other fields have been added since
    for change in (
        lambda config: config.pop(first),
        lambda config: config.clear(),
        lambda config: config.update(surprise=1),
        lambda config: config.update({5: 1}),
        lambda config: config.update({"a\nb": 1}),
        lambda config: config.update({f"field{i}": 1 for i in range(10_000)}),
        lambda config: config.update({None: 1}),
    ):
        path = alter(arch, lambda checkpoint, change=change: change(checkpoint["config"]) and None)
        message = refusal(path)
        assert "configuration" in message or "a key of it is not text" in message


@pytest.mark.parametrize("arch", ARCHS)
def test_the_configuration_of_a_large_network_with_small_weights_takes_no_memory(alter, arch):
    """The weights in the file bound the memory a network may take."""
    largest = {
        "binary": {"filters": (1024, 1024), "latent": 192},
        "hyperprior": dict.fromkeys(("channels8", "channels16", "latent", "context"), 1024)
        | {"analysis_blocks": (16, 16), "synthesis_blocks": (16, 16)},
    }
    changes = largest.get(arch) or dict.fromkeys(FIELDS[arch], 128)
    path = alter(arch, lambda checkpoint: checkpoint["config"].update(changes))
    with memory_bound(64):
        refusal(path)


@pytest.mark.parametrize("arch", ARCHS)
def test_the_default_configuration_is_allowed(arch):
    codec_class(arch).Config()


# Weights


def first_weight(checkpoint: dict) -> str:
    return next(name for name, weight in checkpoint["weights"].items() if weight.dim() > 1)


WEIGHTS = {
    "not a number": lambda weight: weight * float("nan"),
    "one is not a number": lambda weight: weight.flatten().index_fill(
        0, torch.tensor([3]), float("nan")
    ).view(weight.shape),
    "infinite": lambda weight: torch.full_like(weight, float("inf")),
    "minus infinite": lambda weight: torch.full_like(weight, -float("inf")),
    "complex": lambda weight: weight.to(torch.complex64),
    "complex, not a number": lambda weight: weight.to(torch.complex64) * float("nan"),
    "int": lambda weight: weight.int(),
    "long": lambda weight: weight.long(),
    "byte": lambda weight: weight.byte(),
    "bool": lambda weight: weight.bool(),
    "8-bit float": lambda weight: weight.to(torch.float8_e5m2),
    "sparse": lambda weight: weight.float().to_sparse(),
    "on no device": lambda weight: weight.to("meta"),
    "another size": lambda weight: weight[:1],
    "transposed": lambda weight: weight.transpose(0, 1).contiguous(),
    "flat": lambda weight: weight.flatten(),
    "one more dimension": lambda weight: weight[None],
    "a scalar": lambda weight: torch.tensor(1.0),
    "empty": lambda weight: weight[:0],
    "a list": lambda weight: weight.tolist(),
    "a number": lambda weight: 5.0,
    "nothing": lambda weight: None,
    "enormous": lambda weight: torch.zeros(1).expand(10**6, 10**6),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")  # of torch, while the files are made
@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("change", WEIGHTS.values(), ids=WEIGHTS)
def test_a_weight_that_does_not_fit_is_named(alter, arch, change):
    names = []

    def replace(checkpoint):
        names.append(first_weight(checkpoint))
        checkpoint["weights"][names[0]] = change(checkpoint["weights"][names[0]])

    message = refusal(alter(arch, replace))
    assert names[0] in message or "it asks for torch" in message


@pytest.mark.parametrize("arch", ARCHS)
def test_missing_and_unknown_weights_are_refused(alter, arch):
    one = torch.ones(1)
    for change in (
        lambda weights: weights.popitem(),
        lambda weights: weights.clear(),
        lambda weights: weights.update(surprise=one),
        lambda weights: weights.update(scalar=torch.tensor(1.0)),
        lambda weights: weights.update({7: one}),
        lambda weights: weights.update({None: one}),
        lambda weights: weights.update({"a\nb": one}),
        lambda weights: weights.update({"x" * 10**5: one}),
        lambda weights: weights.update({f"weight{i}": one for i in range(10_000)}),
    ):
        path = alter(arch, lambda checkpoint, change=change: change(checkpoint["weights"]) and None)
        refusal(path)


def test_tensors_with_more_than_their_numbers_are_refused(alter):
    def parameter(checkpoint):
        name = first_weight(checkpoint)
        checkpoint["weights"][name] = torch.nn.Parameter(checkpoint["weights"][name].clone())

    def negated(checkpoint):
        name = first_weight(checkpoint)
        checkpoint["weights"][name] = torch._neg_view(checkpoint["weights"][name])

    for change in (parameter, negated):
        assert "not a checkpoint" in refusal(alter("binary", change))


def test_absurd_weights_are_refused(alter):
    for factor in (1e4, -1e30):

        def enlarge(checkpoint, factor=factor):
            name = first_weight(checkpoint)
            checkpoint["weights"][name] = checkpoint["weights"][name].float() * factor

        assert "beyond" in refusal(alter("binary", enlarge))


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("value", [50.0, 4000.0])
def test_weights_that_are_absurd_together_are_told_when_a_picture_is_coded(alter, arch, value):
    def fill(checkpoint):
        for name, weight in checkpoint["weights"].items():
            if weight.is_floating_point() and name != "synthesis.ranges":  # powers of two
                weight.fill_(value)
        checkpoint.pop("fingerprint", None)

    encoder = Encoder(alter(arch, fill))
    for quality in (1, 100):
        with pytest.raises(AbsurdWeights, match="weights are absurd"):
            encoder.encode(Picture(colour(64, 64)), EncodingSettings(quality))


def test_a_stored_fingerprint_must_be_that_of_the_weights(checkpoints, tmp_path):
    checkpoint = load_checkpoint(checkpoints["binary"])
    checkpoint["weights"][first_weight(checkpoint)].view(-1)[0] += 0.01
    torch.save(checkpoint, tmp_path / "altered.tar")
    assert "its fingerprint" in refusal(tmp_path / "altered.tar")


def test_metadata_beside_the_weights_is_of_no_effect(alter):
    def add(checkpoint):
        checkpoint["weights"] = OrderedDict(checkpoint["weights"])
        checkpoint["weights"]._metadata = 5

    load(alter("binary", add))


@needs_proc
def test_a_file_that_unpacks_to_much_more_is_refused_before_it_is_unpacked(alter, tmp_path):
    """torch writes its archives without compression, but reads compressed ones, too."""
    zeros = torch.zeros(3 * 10**7)
    large = alter("binary", lambda checkpoint: checkpoint["weights"].update(x=zeros))
    with (
        zipfile.ZipFile(large) as good,
        zipfile.ZipFile(tmp_path / "bomb.tar", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for member in good.namelist():
            bomb.writestr(member, good.read(member))
    assert (tmp_path / "bomb.tar").stat().st_size < 1 << 20
    with memory_bound(64):
        message = refusal(tmp_path / "bomb.tar")
    assert "bomb.tar" in message
    assert "alloc" not in message and "memory" not in message.lower(), message


# Tables of the entropy coder


def edited(name: str, change):
    """Edit ``coder.<name>``, on a copy."""

    def edit(checkpoint):
        key = f"coder.{name}"
        checkpoint["weights"][key] = change(checkpoint["weights"][key].clone())

    return edit


def put(value: int, at: int = 3):
    def change(table):
        table[at] = value
        return table

    return change


def moved(table):
    """A table with one negative reach and the old sum, so that counts still fit."""
    table[0], table[1] = -1, table[0] + table[1] + 1
    return table


TABLES = {
    "reach -1": edited("reach", put(-1)),
    "reach of minimum": edited("reach", put(-(2**31))),
    "reach 0": edited("reach", put(0)),
    "reach one less": edited("reach", lambda table: table - 1),
    "reach one more": edited("reach", lambda table: table + 1),
    "reach 512": edited("reach", put(512)),
    "reach enormous": edited("reach", put(2**31 - 1)),
    "reach negative, same sum": edited("reach", moved),
    "reach too short": edited("reach", lambda table: table[:-1]),
    "reach too long": edited("reach", lambda table: torch.cat([table, table[:1]])),
    "reach empty": edited("reach", lambda table: table[:0]),
    "reach two-dimensional": edited("reach", lambda table: table[None]),
    "reach of floats": edited("reach", lambda table: table.float()),
    "reach of longs": edited("reach", lambda table: table.long()),
    "counts -1": edited("counts", put(-1)),
    "counts 0": edited("counts", put(0)),
    "counts all 0": edited("counts", torch.zeros_like),
    "counts of minimum": edited("counts", put(-(2**31))),
    "counts too large": edited("counts", put(2**24)),
    "counts enormous": edited("counts", put(2**31 - 1)),
    "counts too short": edited("counts", lambda table: table[:-1]),
    "counts too long": edited("counts", lambda table: torch.cat([table, table[:1]])),
    "counts empty": edited("counts", lambda table: table[:0]),
    "counts of floats": edited("counts", lambda table: table.float()),
    "counts of bools": edited("counts", lambda table: table.bool()),
}


@pytest.mark.parametrize("change", TABLES.values(), ids=TABLES)
def test_impossible_tables_of_the_coder_are_refused_when_loading(alter, change):
    message = refusal(alter("hyperprior", change))
    assert "coder" in message or "tables" in message


def test_other_possible_tables_are_used(alter):
    """The tables are the checkpoint's own: nothing else may be demanded of them."""
    coarser = edited("counts", lambda table: (table // 16).clamp(min=1))
    codec, _ = load(alter("hyperprior", coarser))
    payload = codec.compress(colour(70, 90), 50)
    assert full_latent(codec, payload, 70, 90, 50).shape[1] == TINY["hyperprior"].latent
    usual = tiny_codec("hyperprior").coder
    assert not codec.coder.counts.equal(usual.counts)


# Training states

STATE = {"epoch": 0, "optimizer": {"steps": 1, "stacks": []}, "run": {}}
NUMBERS = {"mean": 1, "square": 1, "statistics": [], "bases": []}
STATES = {
    "no epoch": {"optimizer": {}},
    "an epoch in words": {**STATE, "epoch": "three"},
    "a negative epoch": {**STATE, "epoch": -1},
    "half an epoch": {**STATE, "epoch": 0.5},
    "no run": {"epoch": 0, "optimizer": {}},
    "a run of a list": {**STATE, "run": []},
    "an empty optimiser": {**STATE, "optimizer": {}},
    "an optimiser of a list": {**STATE, "optimizer": []},
    "an optimiser of nothing": {**STATE, "optimizer": None},
    "an optimiser of no weights": STATE,
    "an optimiser of a number of steps that is none": {
        **STATE,
        "optimizer": {"steps": "ten", "stacks": []},
    },
    "an optimiser of numbers": {**STATE, "optimizer": {"steps": 1, "stacks": [NUMBERS] * 99}},
    "an optimiser of other weights": {
        **STATE,
        "optimizer": {
            "steps": 1,
            "stacks": [dict.fromkeys(("mean", "square"), torch.zeros(9)) | {"statistics": []}],
        },
    },
}


# Damage to the rest of a state, where its optimiser fits.
OTHERS = {
    "no average": {"average": None},
    "an average of other weights": {"average": {}},
    "an average of other shapes": {"average": {"analysis.conv1.bias": torch.zeros(99)}},
    "no progress": {"progress": None},
    "progress in words": {"progress": ["three"]},
    "no best loss": {"best": None},
}


@pytest.fixture
def trainer():
    codec = codec_class("binary")(TINY["binary"])
    settings = TrainingSettings(
        dataset_path=Path("none"), num_of_epochs=9, batch_size=1, validation_split=0, lr_rate=1,
        crop_size=64,
    )  # fmt: skip
    return Trainer(codec, codec, settings, Path("none"), began=0.0)


@pytest.mark.parametrize("state", STATES.values(), ids=STATES)
def test_a_damaged_training_state_is_refused_in_one_line(trainer, checkpoints, state):
    intact = {**load_checkpoint(checkpoints["binary"]), **trainer.identity(), "best": 1.0}
    with pytest.raises(ValueError) as error:
        trainer.resume({**intact, **state})
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("damage", OTHERS.values(), ids=OTHERS)
def test_other_damage_to_a_training_state_is_refused_in_one_line(trainer, checkpoints, damage):
    state = {**load_checkpoint(checkpoints["binary"]), **trainer.identity(), **trainer.state()}
    trainer.resume(state)
    with pytest.raises(ValueError) as error:
        trainer.resume({**state, **damage})
    assert len(str(error.value).splitlines()) == 1


# Beside another checkpoint, and on the command line


def cyclic(checkpoint):
    """A configuration that contains itself."""
    content = []
    content.append(content)
    checkpoint["config"]["bits"] = content


BAD = {
    "bits": lambda checkpoint: checkpoint["config"].update(bits="16"),
    "enormous bits": lambda checkpoint: checkpoint["config"].update(bits=HUGE),
    "mixed names": lambda checkpoint: checkpoint["config"].update({5: 1}),
    "laughs": lambda checkpoint: checkpoint["config"].update(bits=laughs()),
    "cyclic": cyclic,
    "lines": lambda checkpoint: {**checkpoint, "arch": "two\nlines"},
    "weight 7": lambda checkpoint: checkpoint["weights"].update({7: torch.ones(1)}),
    "scalar": lambda checkpoint: checkpoint["weights"].update(scalar=torch.tensor(1.0)),
    "sparse": lambda checkpoint: checkpoint["weights"].update(x=torch.eye(3).to_sparse()),
    "meta": lambda checkpoint: checkpoint["weights"].update(x=torch.ones(3, device="meta")),
    "spread": lambda checkpoint: checkpoint["weights"].update(
        x=torch.ones(1).expand(10**6, 10**6)
    ),
    "complex": lambda checkpoint: checkpoint["weights"].update(x=torch.ones(3) * 1j),
}  # fmt: skip


@pytest.mark.parametrize("change", BAD.values(), ids=BAD)
def test_a_bad_checkpoint_beside_the_model_is_passed_over(checkpoints, alter, tmp_path, change):
    (tmp_path / "main.tar").write_bytes(checkpoints["hyperprior"].read_bytes())
    alter("binary", change)
    (tmp_path / "zz.tar").write_bytes(checkpoints["binary"].read_bytes())
    wanted = fingerprint(load_checkpoint(tmp_path / "zz.tar"))
    with soon():
        decoder = Decoder(tmp_path / "main.tar")
        assert decoder.codec(wanted).arch == "binary"
        with pytest.raises(ValueError, match="made by checkpoint 0000000000000005"):
            decoder.codec(5)


def test_what_is_wrong_with_the_right_checkpoint_is_said_for_every_file(
    checkpoints, alter, tmp_path
):
    (tmp_path / "main.tar").write_bytes(checkpoints["hyperprior"].read_bytes())
    path = alter("binary", lambda checkpoint: checkpoint["weights"].popitem() and None)
    decoder = Decoder(tmp_path / "main.tar")
    for _ in range(2):
        with pytest.raises(ValueError, match="the checkpoint's weights do not fit"):
            decoder.codec(fingerprint(load_checkpoint(path)))


@pytest.mark.parametrize("change", BAD.values(), ids=BAD)
def test_a_bad_checkpoint_is_one_line_on_the_command_line(script, alter, workplace, change):
    path = alter("binary", change, "bad.tar")
    save_png(workplace / "out/original/photo.png", colour(30, 40))
    save_png(workplace / "dataset/photo.png", colour(30, 40))
    (workplace / "out/compressed").mkdir()
    for name in ("encode", "decode", "train"):
        with soon():
            result = script(name, "--checkpoint_path" if name == "train" else "--model", path)
        lines = result.err.strip().splitlines()
        assert result.code == 1 and len(lines) == 1 and lines[0].startswith(f"{name}.py: error: ")
        assert len(lines[0]) < 600


@pytest.mark.parametrize("kind", ["text", "empty", "a TorchScript program", "code", "a folder"])
def test_what_is_no_checkpoint_is_one_line_in_a_shell(shell, workplace, kind):
    path = workplace / "bad.tar"
    save_png(workplace / "out/original/photo.png", colour(30, 40))
    if kind == "code":
        torch.save({"format": 1, "arch": Code(workplace / "marker")}, path)
    elif kind == "a folder":
        path.mkdir()
    else:
        path.write_bytes(JUNK[kind])
    result = shell("encode", "--model", path, cwd=workplace)
    assert result.code == 1 and not result.out
    assert len(result.err.strip().splitlines()) == 1, result.err
    assert result.err.startswith("encode.py: error: ") and "bad.tar" in result.err
    assert not (workplace / "marker").exists()
