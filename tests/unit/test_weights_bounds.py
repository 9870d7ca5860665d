"""Small weight files that ask for much: refused within bounds of memory and processor time."""

from __future__ import annotations

import collections
import json
import os
import re
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from bounded import refusals
from safetensors.torch import save
from weight_cases import assert_same_state, copy_of, save_sam, tiny_generator

from unseg.io.weight_files.read import read_weight_file
from unseg.models.formats.release import tensors_sha256
from unseg.models.weights import CHECKPOINT_FORMAT, load_generator, save_release
from unseg.utils.errors import UserError

_START, _END = b"\x80\x02", b"."


def text(value: str) -> bytes:
    """The instruction for a text."""
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def archive(path: Path, pickle: bytes, *, compressed: bool = False, **records: bytes) -> None:
    """A zip file as `torch.save` writes it, with this pickle."""
    kind = zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED
    with zipfile.ZipFile(path, "w", kind) as file:
        for name, data in {"data.pkl": pickle, "version": b"3\n", **records}.items():
            file.writestr(f"archive/{name.replace('__', '/')}", data)


def nothing(path: Path) -> None:
    archive(path, _START + b"X\xff\xff\xff\xff.")


def byte_array(path: Path) -> None:
    """`bytearray(5e9)`, which torch allows in weights."""
    number = b"\x8a\x05" + (5_000_000_000).to_bytes(5, "little")
    archive(path, _START + b"cbuiltins\nbytearray\n" + number + b"\x85R" + _END)


def doubled(path: Path) -> None:
    """Hexadecimal of hexadecimal of ..., 33 times: each doubles the bytes."""
    whole = text("a") + text("latin1") + b"\x86R"
    for _ in range(33):
        whole = whole + text("hex") + b"\x86R"
    calls = b"c_codecs\nencode\n" * 34
    archive(path, _START + calls + whole + _END)


def nested_key(path: Path) -> None:
    """A key of tuples in tuples: its hash visits 2^45 leaves."""
    key = b")" + b"".join(b"q" + bytes([i]) + b"h" + bytes([i]) + b"\x86" for i in range(45))
    archive(path, _START + b"}" + key + b"K\x01s" + _END)


def laughs(path: Path) -> None:
    """Lists of ten times the list before, twelve deep: 10^12 values."""
    lists = text("a")
    for i in range(12):
        lists = b"](" + lists + b"q" + bytes([i]) + (b"h" + bytes([i])) * 9 + b"e"
    archive(path, _START + b"}" + text("a") + lists + b"s" + _END)


def deep(path: Path) -> None:
    archive(path, _START + b"}" + text("a") + b"]" * 50_000 + b"a" * 49_999 + b"s" + _END)


def in_itself(path: Path) -> None:
    archive(path, _START + b"}q\x00" + text("a") + b"h\x00s" + _END)


def many_steps(path: Path) -> None:
    archive(path, _START + b"N0" * 4_000_000 + b"}" + _END)


def unending_steps(path: Path) -> None:
    archive(path, _START + b"}(" + b"N" * 3_000_000 + _END)


def tensor(path: Path, *, promised: int, shape: int, step: int, held: bytes) -> None:
    """One float tensor whose storage and shape say something else than its record."""

    def number(value: int) -> bytes:
        return b"\x8a\x08" + value.to_bytes(8, "little")

    storage = text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu")
    storage = b"(" + storage + number(promised) + b"tQ"
    sizes = number(shape) + b"\x85" + number(step) + b"\x85"
    ordered = b"ccollections\nOrderedDict\n)R"
    value = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K\x00" + sizes + b"\x89" + ordered
    archive(path, _START + b"}" + text("a") + value + b"tRs" + _END, data__0=held)


def short_record(path: Path) -> None:
    tensor(path, promised=1 << 40, shape=1 << 40, step=1, held=bytes(16))


def repeated_number(path: Path) -> None:
    """One number as a vector of 2^40 of them."""
    tensor(path, promised=4, shape=1 << 40, step=0, held=bytes(16))


def beyond_its_storage(path: Path) -> None:
    tensor(path, promised=4, shape=3, step=1 << 40, held=bytes(16))


def zip_bomb(path: Path) -> None:
    archive(path, _START + b"}.", compressed=True, data__0=bytes(64 << 20))


def overlapping(path: Path) -> None:
    """Forty entries of the directory that mean the same record of a megabyte."""
    archive(path, _START + b"}.", **{f"data__{i:03}": b"" for i in range(40)})
    data = path.read_bytes()
    start = data.index(b"PK\x01\x02")
    with zipfile.ZipFile(path) as file:
        first = file.infolist()[2].header_offset
    entries = bytearray(data[start:-22])
    at, big = 0, 1 << 20
    while at < len(entries):
        length = int.from_bytes(entries[at + 28 : at + 30], "little")
        if b"data/" in entries[at + 46 : at + 46 + length]:
            struct.pack_into("<LL", entries, at + 20, big, big)
            struct.pack_into("<L", entries, at + 42, first)
        at += 46 + length
    end = bytearray(data[-22:])
    struct.pack_into("<L", end, 16, start + big)
    path.write_bytes(data[:start] + bytes(big) + bytes(entries) + bytes(end))


def two_of_a_name(path: Path) -> None:
    archive(path, _START + b"}.", **{"DATA.pkl": _START + b"}."})


def long_header(path: Path) -> None:
    path.write_bytes(struct.pack("<Q", 90 << 20) + b"{" + b" " * 64)


def pipe(path: Path) -> None:
    os.mkfifo(path)


def endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


MORE, LESS = "more than tensors and plain containers", "truncated or damaged"
CASES: dict[Callable[[Path], None], str] = {
    nothing: LESS,
    byte_array: f"{MORE} \\(it asks for builtins.bytearray\\)",
    doubled: f"{MORE} \\(it asks for _codecs.encode\\)",
    nested_key: f"{MORE} \\(it asks for a key",
    laughs: f"{LESS}.*more than 4,000,000 values",
    deep: f"{LESS}.*nested more than 64 deep",
    in_itself: f"{LESS}.*nested more than 64 deep",
    many_steps: f"{MORE}.*instruction POP",
    unending_steps: f"{LESS}.*more than 1,000,000 steps",
    short_record: f"{LESS}.*promises 1,099,511,627,776 numbers in record '0' of 16 bytes",
    repeated_number: f"{LESS}.*has 1,099,511,627,776 numbers, its storage 4",
    beyond_its_storage: f"{LESS}.*has 3 numbers, its storage 4",
    zip_bomb: f"{LESS}.*compressed",
    overlapping: f"{LESS}.*records promise 41,943",
    two_of_a_name: f"{LESS}.*several records of one name",
    long_header: LESS,
    pipe: "not a regular file",
    endless: "not a regular file",
}


@pytest.fixture(scope="module")
def refused(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, str | None]]:
    """File and refusal of each case."""
    folder = tmp_path_factory.mktemp("weights")
    paths = [folder / f"{make.__name__}.pth" for make in CASES]
    for make, path in zip(CASES, paths, strict=True):
        make(path)
    imports = "from unseg.io.weight_files.read import read_weight_file"
    found = refusals(imports, "read_weight_file(path)", paths)
    return {p.stem: (p, text) for p, text in zip(paths, found, strict=True)}


@pytest.mark.parametrize("make", CASES, ids=lambda make: make.__name__)
def test_a_small_file_that_asks_for_much_is_refused_within_bounds(
    refused: dict[str, tuple[Path, str | None]], make: Callable[[Path], None]
) -> None:
    path, message = refused[make.__name__]
    assert message is not None
    assert message.startswith(f"{path}: ")
    assert re.search(CASES[make], message), message
    assert "\n" not in message
    assert "weights_only" not in message


def release_of(generator: Any, path: Path, **arguments: object) -> None:
    """A release whose header asks for another generator."""
    save_release(generator, path, metadata={})
    file = read_weight_file(path)
    header = json.loads(file.header["unseg"])
    header["build_arguments"] |= arguments
    path.write_bytes(save(dict(file.content), metadata={"unseg": json.dumps(header)}))


def checkpoint_of(generator: Any, path: Path, **arguments: object) -> None:
    models = {"generator": {**generator.build_arguments, **arguments}}
    content = {"format": CHECKPOINT_FORMAT, "models": models, "generator": generator.state_dict()}
    torch.save(content, path)


def test_a_header_that_asks_for_a_larger_model_is_refused_before_it_is_built(
    tmp_path: Path,
) -> None:
    asked: list[tuple[dict[str, Any], str]] = [
        ({"image_size": 1 << 19}, "of the wrong size"),
        ({"image_size": 1 << 70}, "cannot be built .*larger than any model's"),
        ({"size": "vit_h"}, "wrong model size"),
    ]
    expected = {}
    for write in (release_of, checkpoint_of):
        for number, (arguments, reason) in enumerate(asked):
            path = tmp_path / f"{write.__name__}{number}"
            write(tiny_generator(), path, **arguments)
            expected[path] = reason
    imports = "from unseg.models.weights import load_generator; import segment_anything"
    found = refusals(imports, "load_generator(path)", list(expected))
    for (path, reason), message in zip(expected.items(), found, strict=True):
        assert message is not None, path
        assert re.search(reason, message), message
        assert "\n" not in message


def test_a_release_does_not_grow_far_beyond_its_parent(tmp_path: Path) -> None:
    parent, path = tmp_path / "sam.pth", tmp_path / "large.safetensors"
    save_sam(parent)
    generator = tiny_generator()
    save_release(generator, path, metadata={}, parent_path=parent)
    file = read_weight_file(path)
    names = set(generator.trainable_parameters())
    header = json.loads(file.header["unseg"])
    header["build_arguments"]["image_size"] = 1 << 14
    kept = {name: value for name, value in file.content.items() if name in names}
    header["sha256"] = tensors_sha256(kept)
    path.write_bytes(save(kept, metadata={"unseg": json.dumps(header)}))
    with pytest.raises(
        UserError, match=r"asks for a generator of .* numbers, and it and its parent"
    ):
        load_generator(path)


def test_what_checkpoints_consist_of_is_read_as_it_was_saved(tmp_path: Path) -> None:
    shared = torch.randn(4, 6)
    tied = torch.nn.Linear(3, 3)
    content = {
        "numbers": [1, -2, 3.5, 1 << 60, True, None],
        "texts": ("a", "b" * 300, "é"),
        "bytes": b"\x00\xff",
        "ordered": collections.OrderedDict(a=1),
        "state": tied.state_dict(),
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "views": [shared, shared.T, shared[1:, ::2]],
        "types": [torch.ones(2, dtype=t) for t in (torch.float16, torch.bfloat16, torch.int64)],
        "bool": torch.ones(2, dtype=torch.bool),
        "unsigned": torch.ones(2, dtype=torch.uint16),
        "empty": [torch.zeros(0, 3), torch.tensor(4.0)],
        "size": torch.Size([2, 3]),
        "set": {"a", 2},
        3: "a number is a key",
    }
    path = tmp_path / "content.pt"
    torch.save(content, path)
    found = read_weight_file(path).content
    assert found["state"]._metadata == content["state"]._metadata
    assert found["state"]["weight"].equal(content["state"]["weight"])
    for name in ("numbers", "texts", "bytes", "ordered", "size", "set", 3):
        assert found[name] == content[name], name
    for name in ("views", "types", "empty"):
        for after, before in zip(found[name], content[name], strict=True):
            assert torch.equal(after, before), name
            assert after.dtype == before.dtype
    assert torch.equal(found["unsigned"], content["unsigned"])


def test_an_optimiser_and_a_generator_pass_the_gate(tmp_path: Path) -> None:
    generator = tiny_generator()
    optimizer = torch.optim.Adam(generator.parameters())
    sum(p.square().sum() for p in generator.parameters()).backward()
    optimizer.step()
    path = tmp_path / "content.pt"
    torch.save({"generator": generator.state_dict(), "optimizer": optimizer.state_dict()}, path)
    content = read_weight_file(path).content
    assert_same_state(content["generator"], copy_of(generator))
    optimizer.load_state_dict(content["optimizer"])
