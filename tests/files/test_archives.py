"""Archives are looked at before they are read: damage, hostile names, bombs, and what is no file."""

import os
import random
import socket
import zipfile

import pytest
import torch
from deepmd.infer import DeepPot

from deepmd_gnn.files.archives import FileError, opened


def save(path):
    torch.save({"weights": torch.arange(500.0), "name": "x"}, path)
    return path


def check(path):
    with opened(path) as archive:
        return archive.names


def test_files_of_torch_are_read(tmp_path):
    path = save(tmp_path / "a.pt")
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / "b.pth"))
    assert any(name.endswith("data.pkl") for name in check(path))
    assert any(name.endswith("constants.pkl") for name in check(tmp_path / "b.pth"))
    (tmp_path / "link.pt").symlink_to(path)
    assert check(tmp_path / "link.pt")


def test_every_flipped_bit_of_the_content_is_noticed(tmp_path):
    """Torch itself checks nothing: it reads other numbers."""
    path = save(tmp_path / "a.pt")
    data, rng = path.read_bytes(), random.Random(0)
    with zipfile.ZipFile(path) as archive:
        info = max(archive.infolist(), key=lambda info: info.file_size)
    middle = data.index(torch.tensor([100.0, 101.0]).numpy().tobytes())
    places = [middle + rng.randrange(1000) for _ in range(40)] + [
        data.index(b"data.pkl") + 80 + k for k in range(0, 40, 4)
    ]
    unnoticed = 0
    for place in places:
        flipped = bytearray(data)
        flipped[place] ^= 1 << rng.randrange(8)
        path.write_bytes(flipped)
        with pytest.raises(FileError, match=r"a\.pt: .*(damaged|not a PyTorch|truncated|refused)"):
            check(path)
        try:
            unnoticed += not torch.equal(torch.load(path)["weights"], torch.arange(500.0))
        except Exception:  # what torch notices by chance
            continue
    assert info.file_size == 2000
    assert unnoticed > 30


def test_names_that_are_no_text(tmp_path):
    """Zipfile decodes the name in front of a member by a flag of the index, whatever the bytes are."""
    path = archive(tmp_path / "a.pt", "m/data.pkl", "m/ä")
    data = bytearray(path.read_bytes())
    data[data.index("m/ä".encode()) + 2] = 0xFF
    path.write_bytes(data)
    with pytest.raises(FileError, match=r"a\.pt: is damaged: .*codec can't decode"):
        check(path)


def archive(path, *names, compression=zipfile.ZIP_STORED, content=b"x"):
    with zipfile.ZipFile(path, "w", compression) as file:
        for name in names:
            file.writestr(name, content)
    return path


@pytest.mark.parametrize("name", ["m/../../.bashrc", "../x", "/etc/passwd", "m/a\\..\\b", "m/.."])
def test_names_that_leave_the_folder(name, tmp_path):
    with pytest.raises(FileError, match=r"a\.pt2: is refused: .*outside its folder"):
        check(archive(tmp_path / "a.pt2", "m/version", name))


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("other", ["m/data.pkl", "m/DATA.PKL"])
def test_two_members_of_one_name(other, tmp_path):
    """Zipfile takes the last, torch the first, whatever the capitals: one could be checked and the other loaded."""
    with pytest.raises(FileError, match="two members named"):
        check(archive(tmp_path / "a.pt", "m/data.pkl", other))


def test_an_archive_behind_a_pickle(tmp_path):
    """Torch unpickles what is in front."""
    path = save(tmp_path / "a.pt")
    path.write_bytes(b"\x80\x02}q\x00." + path.read_bytes())
    with pytest.raises(FileError, match=r"a\.pt: is not a PyTorch archive"):
        check(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "is empty"), (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"), (b"<!DOCTYPE html>", "web page"),
     (b"PK\x03\x04 and no end", "truncated"), (b"hello", "is not a PyTorch archive")],
)  # fmt: skip
@pytest.mark.parametrize("suffix", [".pt", ".pth", ".pt2"])
def test_no_archive_at_all(content, words, suffix, tmp_path):
    """For commands and for DeePMD-kit's Python interface, which would speak of ``KeyError: 101``."""
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)
    with pytest.raises(FileError, match=words):
        check(path)
    with pytest.raises(FileError, match=words):
        DeepPot(str(path))


def test_bombs(tmp_path):
    path = archive(tmp_path / "a.pt", "m/x", compression=zipfile.ZIP_DEFLATED, content=bytes(2**28))
    assert path.stat().st_size < 300_000
    with pytest.raises(FileError, match=r"unpack to 268435456, as no file of torch does"):
        check(path)


def test_bomb_that_announces_less(tmp_path):
    """Zipfile would expand all of it to cut it to the announced size."""
    path = archive(tmp_path / "a.pt", "m/x", compression=zipfile.ZIP_DEFLATED, content=bytes(2**26))
    data = path.read_bytes().replace((2**26).to_bytes(4, "little"), (16).to_bytes(4, "little"))
    path.write_bytes(data)
    with pytest.raises(FileError, match="is damaged: 'm/x'"):
        check(path)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_methods(method, tmp_path):
    with pytest.raises(FileError, match="packed as torch packs nothing"):
        check(archive(tmp_path / "a.pt", "m/x", compression=method))


def test_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe.pt")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s.pt"))
        for path in (tmp_path / "pipe.pt", tmp_path / "s.pt", type(tmp_path)("/dev/zero")):
            with pytest.raises(FileError, match="is a device, pipe or socket"):
                check(path)
    with pytest.raises(FileError, match="is a folder"):
        check(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such file"):
        check(tmp_path / "nothing.pt")
    (tmp_path / "empty.pt").touch()
    with pytest.raises(FileError, match="is empty"):
        check(tmp_path / "empty.pt")
