"""The packed file: what is written is read back, and nothing else is."""

from __future__ import annotations

import errno
import json
import os
import stat
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from packed import join, metadata, reseal, split, tensors, with_metadata
from safetensors.numpy import load_file, save_file

import bitinfer
import bitinfer.runtime.format
from bitinfer.errors import BitinferError, FormatError, InputError, quote, shorten
from bitinfer.files import check_target, new_folder
from bitinfer.runtime.format import FORMAT_VERSION, read_packed, write_packed


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    write_packed(path, tensors(), metadata())
    return path


@pytest.fixture(params=["links", "no links"])
def links(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """File systems with hard links and without them."""

    def refuse(*paths: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    if request.param == "no links":
        monkeypatch.setattr(os, "link", refuse)


def read_changed(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    read_packed(path)


def test_round_trip(path: Path) -> None:
    found_metadata, found = read_packed(path)
    digest = found_metadata.pop("sha256")
    assert len(digest) == 64
    assert found_metadata == {**metadata(), "format_version": FORMAT_VERSION}
    assert found.keys() == tensors().keys()
    for name, expected in tensors().items():
        assert found[name].dtype == expected.dtype
        np.testing.assert_array_equal(found[name], expected)


def test_any_safetensors_reader_can_list_it(path: Path) -> None:
    assert load_file(path).keys() == tensors().keys()


def test_equal_models_give_equal_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        backwards = dict(reversed(metadata().items())) if name == "b" else metadata()
        write_packed(tmp_path / name, dict(reversed(tensors().items())), backwards)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_non_contiguous_tensors_are_written_by_value(tmp_path: Path) -> None:
    array = np.arange(12, dtype=np.int32).reshape(3, 4).T
    write_packed(tmp_path / "m", {"x": array}, metadata())
    np.testing.assert_array_equal(read_packed(tmp_path / "m")[1]["x"], array)


def test_existing_file_is_kept(path: Path) -> None:
    before = path.read_bytes()
    with pytest.raises(FileExistsError, match="overwrite=True"):
        write_packed(path, {}, metadata())
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.usefixtures("links")
def test_file_that_appears_while_writing_is_kept(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = path.read_bytes()
    monkeypatch.setattr(bitinfer.runtime.format, "check_target", lambda path, overwrite: Path(path))
    with pytest.raises(FileExistsError, match="overwrite=True"):
        write_packed(path, {}, metadata())
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


def test_targets(tmp_path: Path) -> None:
    assert check_target(tmp_path / "new") == tmp_path / "new"
    assert check_target(os.fsencode(tmp_path / "new")) == tmp_path / "new"  # type: ignore[arg-type]
    for name in ("", ".", "/", "a\0b"):
        with pytest.raises(InputError, match="expected the name of a file"):
            check_target(name)
    with pytest.raises(FileNotFoundError, match=r"no such folder: .*absent'"):
        write_packed(tmp_path / "absent" / "m", {}, metadata())
    with pytest.raises(FileExistsError):
        write_packed(tmp_path, {}, metadata())
    with pytest.raises(IsADirectoryError, match="expected a file"):
        write_packed(tmp_path, {}, metadata(), overwrite=True)
    (tmp_path / "dangling").symlink_to("absent")
    with pytest.raises(FileExistsError):
        write_packed(tmp_path / "dangling", {}, metadata())
    write_packed(tmp_path / "dangling", {}, metadata(), overwrite=True)
    assert sorted(os.listdir(tmp_path)) == ["absent", "dangling"]
    (tmp_path / "lost").symlink_to("nowhere/absent")
    with pytest.raises(FileNotFoundError, match=r"no such folder: .*nowhere'"):
        write_packed(tmp_path / "lost", {}, metadata(), overwrite=True)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="a pipe or device"):
        write_packed(tmp_path / "pipe", {}, metadata(), overwrite=True)


def test_what_is_overwritten_keeps_its_links_and_permissions(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    stored, link = tmp_path / "store" / "m", tmp_path / "m"
    write_packed(stored, {}, metadata())
    link.symlink_to("store/m")
    for mode in (0o600, 0o664, 0o400):
        stored.chmod(mode)
        write_packed(link, tensors(), metadata(), overwrite=True)
        assert link.is_symlink()
        assert stored.stat().st_mode & 0o777 == mode
    assert read_packed(link)[1].keys() == tensors().keys()
    assert os.listdir(tmp_path / "store") == ["m"]
    assert sorted(os.listdir(tmp_path)) == ["m", "store"]


def test_overwrite_replaces(path: Path) -> None:
    write_packed(path, {}, metadata(), overwrite=True)
    assert read_packed(path)[1] == {}
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.usefixtures("links")
def test_one_of_many_writers_wins(tmp_path: Path) -> None:
    outcomes: list[int | None] = []
    start = threading.Barrier(8)

    def write(number: int) -> None:
        start.wait()
        try:
            write_packed(tmp_path / "m", {"x": np.full(9, number, np.int32)}, metadata())
            outcomes.append(number)
        except FileExistsError:
            outcomes.append(None)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = [number for number in outcomes if number is not None]
    assert read_packed(tmp_path / "m")[1]["x"][0] == winner
    assert os.listdir(tmp_path) == ["m"]


def test_failed_write_leaves_nothing(tmp_path: Path) -> None:
    for array in (np.array(["text"]), np.zeros(2, np.float16), np.zeros((1, 1, 1))):
        with pytest.raises(FormatError, match="m: tensor 'x': found"):
            write_packed(tmp_path / "m", {"x": array}, metadata())
    with pytest.raises(FormatError, match="cannot be stored"):
        write_packed(tmp_path / "m", {"\ud800": np.zeros(2)}, metadata())
    with pytest.raises(FormatError, match="cannot be stored"):
        write_packed(tmp_path / "m", {}, metadata(report={"set": set()}))
    with pytest.raises(FormatError, match="'labels'"):
        write_packed(tmp_path / "m", {}, metadata(labels=[]))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("step", ["fsync", "link", "replace"])
def test_interrupted_write_leaves_nothing(
    tmp_path: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*paths: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    def interrupt(*paths: object) -> None:
        raise KeyboardInterrupt

    if step == "replace":
        monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(os, step, interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_packed(tmp_path / "m", {}, metadata())
    assert os.listdir(tmp_path) == []


def test_interrupt_after_the_name_is_taken_keeps_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = os.replace

    def refuse(*paths: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    def interrupt(old: Path, new: Path) -> None:
        replace(old, new)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_packed(tmp_path / "m", tensors(), metadata())
    assert os.listdir(tmp_path) == ["m"]
    assert read_packed(tmp_path / "m")[1].keys() == tensors().keys()


def fail_sync(monkeypatch: pytest.MonkeyPatch, code: int, *, folders: bool) -> None:
    """Let fsync of files or of folders fail."""
    fsync = os.fsync

    def fail(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode) == folders:
            raise OSError(code, os.strerror(code))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", fail)


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.EINVAL])
def test_a_file_that_is_not_on_the_disk_is_an_error(
    tmp_path: Path, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_sync(monkeypatch, code, folders=False)
    with pytest.raises(OSError, match=os.strerror(code)):
        write_packed(tmp_path / "m", {}, metadata())
    with pytest.raises(OSError, match=os.strerror(code)), new_folder(tmp_path / "f") as folder:
        (folder / "a").write_text("a")
    assert os.listdir(tmp_path) == []


def test_folders_are_put_on_the_disk_where_that_is_possible(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_sync(monkeypatch, errno.EINVAL, folders=True)
    write_packed(tmp_path / "m", {}, metadata())
    with new_folder(tmp_path / "f") as folder:
        (folder / "a").write_text("a")
    assert sorted(os.listdir(tmp_path)) == ["f", "m"]
    monkeypatch.undo()
    fail_sync(monkeypatch, errno.EIO, folders=True)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)), new_folder(tmp_path / "g"):
        pass
    assert sorted(os.listdir(tmp_path)) == ["f", "m"]


def test_every_flipped_byte_is_rejected(path: Path) -> None:
    data = path.read_bytes()
    for position in range(len(data)):
        changed = bytearray(data)
        changed[position] ^= 0x20  # also turns letters into the other case
        with pytest.raises(FormatError):
            read_changed(path, bytes(changed))


def test_a_folder_is_on_the_disk_before_it_takes_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    fsync = os.fsync

    def record(descriptor: int) -> None:
        synced.append(os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}")))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", record)
    with new_folder(tmp_path / "f") as folder:
        (folder / "a").write_text("a")
        (folder / "b").write_text("b")
        assert os.listdir(tmp_path) != ["f"]
    assert sorted(synced[:2]) == ["a", "b"]
    assert synced[-1] == tmp_path.name
    assert os.listdir(tmp_path) == ["f"]
    assert sorted(os.listdir(tmp_path / "f")) == ["a", "b"]
    with pytest.raises(KeyboardInterrupt), new_folder(tmp_path / "g"):
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == ["f"]


def test_every_truncation_is_rejected(path: Path) -> None:
    data = path.read_bytes()
    for length in range(len(data)):
        with pytest.raises(FormatError):
            read_changed(path, data[:length])
    with pytest.raises(FormatError, match="expected"):
        read_changed(path, data + b"\0")


def test_foreign_safetensors_file(tmp_path: Path) -> None:
    save_file(tensors(), tmp_path / "m", {"format": "pt"})
    with pytest.raises(FormatError, match="not a packed model"):
        read_packed(tmp_path / "m")


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"PK\x03\x04" + bytes(60), b"\xff" * 64, bytes(99)]
)
def test_other_files(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(FormatError, match="m: "):
        read_changed(tmp_path / "m", content)


def test_huge_file_with_a_small_header_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "m"
    with open(path, "wb") as file:
        file.write(join({"x": {}}, b""))
        file.truncate(1 << 40)  # sparse
    with pytest.raises(FormatError, match="not a packed model"):
        read_packed(path)


def test_huge_header_length(tmp_path: Path) -> None:
    path = tmp_path / "m"
    with open(path, "wb") as file:
        file.write((1 << 30).to_bytes(8, "little"))
        file.truncate(1 << 31)
    with pytest.raises(FormatError, match="header length 1073741824"):
        read_packed(path)


def test_huge_tensors_are_not_read(path: Path) -> None:
    header, body = split(path.read_bytes())
    header["x"] = {"dtype": "U64", "shape": [1 << 33], "data_offsets": [72, 72 + (1 << 36)]}
    with open(path, "wb") as file:
        file.write(join(header, body))
        file.truncate(file.tell() + (1 << 36))  # sparse
    with pytest.raises(FormatError, match=r"table of tensors|expected at most"):
        read_packed(path)


def test_hostile_headers_take_no_time(path: Path) -> None:
    header, body = split(path.read_bytes())
    start = time.perf_counter()
    names = [f"t{i}" for i in range(300_000)]
    pairs = ", ".join(f'"{name}": 1' for name in [*names, names[-1]])
    with pytest.raises(FormatError, match="found the key 't299999' twice"):
        read_changed(path, join(f"{{{pairs}}}".encode(), body))
    header["head.bias"]["shape"] = [10**4000] * 1000
    with pytest.raises(FormatError, match=r"table of tensors|expected at most"):
        read_changed(path, join(header, body))
    assert time.perf_counter() - start < 10


def test_unknown_version(path: Path) -> None:
    future = {**metadata(), "format_version": "3", "sha256": "0" * 64, "more": 1}
    with pytest.raises(FormatError, match=r"'format_version': found '3', expected '2' or '1'"):
        read_changed(path, with_metadata(path.read_bytes(), future))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        '{"a": 1, "a": 2}',
        '{"a": NaN}',
        "[" * 100_000,
        '{"a": ' + "9" * 10_000 + "}",
        "\ud800",
    ],
)
def test_bad_json(path: Path, text: str) -> None:
    header, body = split(path.read_bytes())
    header["__metadata__"]["bitinfer"] = text
    data = join(json.dumps(header).encode(), body)
    with pytest.raises(FormatError):
        read_changed(path, data)


@pytest.mark.parametrize("value", [None, 3, [], {}, {"bitinfer": 3}, {"bitinfer": "{}", "x": ""}])
def test_bad_metadata_of_the_container(path: Path, value: object) -> None:
    header, body = split(path.read_bytes())
    header["__metadata__"] = value
    with pytest.raises(FormatError, match=r"m: |must be str, .* not int|one metadata key"):
        read_changed(path, join(header, body))


def test_header_encoding_is_utf8_only(path: Path) -> None:
    header, body = split(path.read_bytes())
    with pytest.raises(FormatError, match="not valid JSON"):
        read_changed(path, join(json.dumps(header).encode("utf-16"), body))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ('{"a": [1e999]}', "'report': found inf, expected finite numbers"),
        ('{"a": {"\\ud800": 1}}', "'report': found a lone surrogate"),
        ('{"a": "\\ud800"}', "'report': found a lone surrogate"),
        ('{"a": ' + "[" * 20 + "]" * 20 + "}", "'report': found deeper nesting"),
        ('{"a": ' * 500 + "1" + "}" * 500, "'report': found deeper nesting"),
    ],
)
def test_values_that_nobody_can_use(path: Path, value: str, message: str) -> None:
    stored = {**metadata(report={}), "format_version": "2", "sha256": "0" * 64}
    text = json.dumps(stored, sort_keys=True).replace('"report": {}', f'"report": {value}')
    with pytest.raises(FormatError, match=message):
        read_changed(path, with_metadata(path.read_bytes(), text))


def test_errors_are_short(path: Path) -> None:
    stored: dict[str, Any] = {**metadata(), "format_version": "2", "sha256": "0" * 64}
    for key in [*stored, "k" * 10_000]:
        for value in (["x" * 100] * 10_000, {"x" * 100: 1, "y" * 100_000: 2}):
            if key == "report" and isinstance(value, dict):
                continue  # holds anything
            with pytest.raises(FormatError, match=f"'{key[:80]}") as caught:
                read_changed(path, with_metadata(path.read_bytes(), {**stored, key: value}))
            assert len(str(caught.value)) < len(str(path)) + 400


@pytest.mark.parametrize("where", ["name", "dtype", "shape", "twice", "order"])
def test_errors_about_tensors_are_short(path: Path, where: str) -> None:
    header, body = split(path.read_bytes())
    long = "n" * 1_000_000
    entry = {"dtype": "F32", "shape": [0], "data_offsets": [len(body), len(body)]}
    text = json.dumps(header)[:-1]
    if where == "dtype":
        entry["dtype"] = long
    elif where == "shape":
        entry["shape"] = [long]
    elif where == "order":
        entry["data_offsets"] = [len(body) + 4] * 2
    elif where == "twice":
        text += f', "{long}": {json.dumps(entry)}'
    text += f', "{long}": {json.dumps(entry)}}}'
    path.write_bytes(reseal(join(text.encode(), body)))
    with pytest.raises(FormatError) as caught:
        bitinfer.load(path)  # a name that nobody asked for is found by the native code
    assert len(str(caught.value)) < len(str(path)) + 500


def test_long_names_are_quoted_in_full_up_to_those_of_tensors() -> None:
    name = "layer.11.attention.output.in.thresholds"
    assert quote(name) == repr(name)
    assert len(quote([[["x" * 1000] * 1000] * 1000] * 1000)) < 2000
    assert shorten(name) == name
    assert len(shorten("x" * 1000)) == 400


@pytest.mark.parametrize("name", ["\ud800", "x\udfff", "\ud800" * 100_000])
def test_names_of_tensors_are_unicode(path: Path, name: str) -> None:
    header, body = split(path.read_bytes())
    header[name] = {"dtype": "F32", "shape": [0], "data_offsets": [len(body), len(body)]}
    path.write_bytes(reseal(join(json.dumps(header).encode(), body)))
    with pytest.raises(FormatError, match="found a table of tensors that does not fit") as caught:
        read_packed(path)
    assert len(str(caught.value)) < len(str(path)) + 400


def set_config(**changes: object) -> dict[str, object]:
    return {"config": {**metadata()["config"], **changes}}


def set_codes(**changes: object) -> dict[str, object]:
    return {"codes": {**metadata()["codes"], **changes}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": ["one"]}, "'labels': found 1 names, expected 2"),
        ({"labels": ["same", "same"]}, "names that differ"),
        ({"labels": [0, 1]}, "a list of strings"),
        ({"labels": "ab"}, "a list of strings"),
        ({"task": 3}, "'task': found 3, expected text"),
        ({"licence": []}, "'licence'"),
        ({"report": None}, "'report': found None, expected an object"),
        ({"vocab": None}, "'vocab'"),
        ({"vocab": "a\n" * 8}, "9 lines, expected at most 8"),
        ({"vocab": "a\nb\na"}, "lines that differ"),
        ({"vocab": "a\n\nb"}, "lines that differ"),
        ({"tokenizer": {"lowercase": 1, "max_length": 9}}, "'tokenizer.lowercase': found 1"),
        ({"tokenizer": {"lowercase": True, "max_length": 17}}, "an integer 3..16"),
        ({"tokenizer": {"lowercase": True, "max_length": True}}, "'tokenizer.max_length'"),
        ({"tokenizer": {"lowercase": True}}, "'tokenizer.max_length': found nothing"),
        ({"tokenizer": []}, "'tokenizer': found"),
        ({"source": {"file": "x", "sha256": "0" * 63}}, "64 lower-case hexadecimal digits"),
        ({"source": {"file": "x", "sha256": "A" * 64}}, "64 lower-case hexadecimal digits"),
        ({"unknown": 1}, "'unknown': found an unknown field"),
        ({"recipe": "bit-1-1-1"}, "'recipe': found an unknown field"),
        ({"family": 1}, "'family': found 1, expected text"),
        ({"codes": []}, "'codes': found"),
        (set_codes(keys="signed-1"), "'codes.keys': found an unknown field"),
        (set_codes(key=None), "'codes.key': found None, expected 'signed-1' or"),
        (set_codes(key="unsigned-1"), "'codes.key': found 'unsigned-1', expected 'signed-1' or"),
        (set_codes(value="signed-5"), "'codes.value': found 'signed-5'"),
        ({"architecture": {}}, "'architecture'"),
        (set_config(hidden=0), "'config.hidden': found 0"),
        (set_config(hidden=8.0), "'config.hidden': found 8.0"),
        (set_config(layers=2**31), "'config.layers'"),
        (set_config(heads=3), "a divisor of hidden 8"),
        (set_config(activation="tanh"), "'relu' or 'gelu'"),
        (set_config(head="span", labels=3), "a span head"),
        (set_config(extra=1), "'config.extra': found an unknown field"),
        ({"writer": "\ud800"}, "a lone surrogate"),
    ],
)
def test_metadata_is_checked_when_written_and_when_read(
    path: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(FormatError, match=message):
        write_packed(path, {}, metadata(**changes), overwrite=True)
    stored = {**metadata(**changes), "format_version": "2", "sha256": "0" * 64}
    with pytest.raises(FormatError, match=message):
        read_changed(path, with_metadata(path.read_bytes(), stored))


def test_every_missing_field_is_named(path: Path) -> None:
    complete = {**metadata(), "format_version": "2", "sha256": "0" * 64}
    for key in complete:
        rest = {name: value for name, value in complete.items() if name != key}
        with pytest.raises(FormatError, match=f"'{key}'"):
            read_changed(path, with_metadata(path.read_bytes(), rest))


@pytest.mark.parametrize(
    "entry",
    [
        None,
        {"dtype": "F32", "shape": [2]},
        {"dtype": "F16", "shape": [4], "data_offsets": [0, 8]},
        {"dtype": [], "shape": [2], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [True, 2], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [2], "data_offsets": [8, 16]},
        {"dtype": "F32", "shape": [2], "data_offsets": [0, 2**63]},
        {"dtype": "F32", "shape": [2**62, 2**62, 2], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": 2, "data_offsets": [0, 8]},
    ],
)
def test_bad_tensor_entries(path: Path, entry: object) -> None:
    header, body = split(path.read_bytes())
    header["head.bias"] = entry
    with pytest.raises(FormatError):
        read_changed(path, reseal(join(header, body)))


def test_holes_and_overlaps(path: Path) -> None:
    header, body = split(path.read_bytes())
    header["pooler.bits"]["data_offsets"] = [8, 72]
    header["head.bias"]["data_offsets"] = [64, 72]
    with pytest.raises(FormatError):
        read_changed(path, reseal(join(header, body)))


def test_tensors_that_are_not_aligned_are_read_by_value(path: Path) -> None:
    header, body = split(path.read_bytes())
    header["head.bias"] = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    header["pooler.bits"] = {"dtype": "U64", "shape": [8, 1], "data_offsets": [4, 68]}
    path.write_bytes(reseal(join(header, body[:68])))
    found = read_packed(path)[1]
    assert found["pooler.bits"].flags.aligned
    assert found["pooler.bits"].tobytes() == body[4:68]


@pytest.mark.parametrize("shape", [[0, 2**62, 2**62], [0, 2**63], [0] * 100])
def test_empty_tensors_of_any_shape(path: Path, shape: list[int]) -> None:
    header, body = split(path.read_bytes())
    end = max(entry["data_offsets"][1] for key, entry in header.items() if key != "__metadata__")
    header["more"] = {"dtype": "I32", "shape": shape, "data_offsets": [end, end]}
    with pytest.raises(FormatError, match=r"found a table of tensors|at most two sizes"):
        read_changed(path, reseal(join(json.dumps(header).encode(), body)))


def test_tensors_cannot_be_written_to(path: Path) -> None:
    assert not any(array.flags.writeable for array in read_packed(path)[1].values())


def test_repeated_tensor(path: Path) -> None:
    header, body = split(path.read_bytes())
    text = json.dumps(header)
    twice = text[:-1] + ', "head.bias": ' + json.dumps(header["head.bias"]) + "}"
    with pytest.raises(FormatError, match="twice"):
        read_changed(path, join(twice.encode(), body))


def test_checksum_digits_have_one_spelling(path: Path) -> None:
    data = path.read_bytes()
    digest = read_packed(path)[0]["sha256"].encode()
    upper = data.replace(digest, digest.upper())
    assert upper != data
    with pytest.raises(FormatError):
        read_changed(path, upper)


def test_errors_name_the_file(path: Path) -> None:
    with pytest.raises(BitinferError, match=str(path)):
        read_changed(path, path.read_bytes()[:-1])


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_packed(tmp_path / "absent")
