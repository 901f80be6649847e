"""torch.save files: both formats, odd dtypes and strides, refusal of code, damage."""

import collections
import pickle
import struct
import tracemalloc
import zipfile

import ml_dtypes
import numpy as np
import pytest

from skipsr_jax.checkpoints import lazy, torch_file, torch_writer
from skipsr_jax.errors import UserError

DTYPES = [
    "float32",
    "float16",
    "bfloat16",
    "float8_e4m3fn",
    "float8_e5m2",
    "int64",
    "uint8",
    "bool",
]


def tensors_of_every_dtype() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    made = {f"a.{name}": rng.normal(size=(3, 5)).astype(lazy.dtype_named(name)) for name in DTYPES}
    return made | {"scalar": np.array(2.5, np.float32), "empty": np.zeros((0, 4), np.float32)}


def same(lazies: dict, arrays: dict) -> None:
    assert list(lazies) == list(arrays)
    for name, array in arrays.items():
        loaded = lazies[name].load()
        assert (lazies[name].dtype, lazies[name].shape) == (array.dtype, array.shape)
        assert loaded.dtype == array.dtype and loaded.tobytes() == array.tobytes(), name


def write(path, arrays) -> None:
    torch_writer.write(path, {name: lazy.of_array(array) for name, array in arrays.items()})


def test_what_is_written_reads_back_byte_for_byte(tmp_path):
    arrays = tensors_of_every_dtype()
    write(tmp_path / "all.pth", arrays)
    same(torch_file.read(tmp_path / "all.pth"), arrays)


def test_written_storages_are_aligned_and_the_pickle_is_protocol_2(tmp_path):
    write(tmp_path / "x.pth", tensors_of_every_dtype())
    with zipfile.ZipFile(tmp_path / "x.pth") as archive:
        assert archive.testzip() is None
        names = archive.namelist()
        assert (
            names[0] == "x/data.pkl"
            and "x/version" in names
            and archive.read("x/byteorder") == b"little"
        )
        assert archive.read("x/data.pkl")[:2] == b"\x80\x02"
        raw = (tmp_path / "x.pth").read_bytes()
        for info in archive.infolist():
            name, extra = struct.unpack_from("<HH", raw, info.header_offset + 26)
            assert (info.header_offset + 30 + name + extra) % 64 == 0


def test_the_same_tensors_give_the_same_file(tmp_path):
    (tmp_path / "1").mkdir()
    (tmp_path / "2").mkdir()
    for folder in "12":
        write(tmp_path / folder / "x.pth", tensors_of_every_dtype())
    assert (tmp_path / "1/x.pth").read_bytes() == (tmp_path / "2/x.pth").read_bytes()


def test_official_text_embeddings(shared):
    for name, length in (("pos_emb.pt", 58), ("neg_emb.pt", 64)):
        (tensor,) = torch_file.read(shared / "golden" / name).values()
        assert (tensor.shape, tensor.dtype) == ((length, 5120), ml_dtypes.bfloat16)
        values = tensor.load().astype(np.float32)
        assert np.isfinite(values).all() and 0.01 < values.std() < 10


def test_a_bare_tensor_round_trips_to_the_same_storage_bytes(shared, tmp_path):
    source = torch_file.read(shared / "golden" / "pos_emb.pt")
    torch_writer.write(tmp_path / "pos_emb.pt", source)
    again = torch_file.read(tmp_path / "pos_emb.pt")
    assert list(again) == [""]
    assert again[""].load().tobytes() == source[""].load().tobytes()


# A stand-in for torch's own pickler: the same opcodes, with names that need no torch.
class Global:
    def __init__(self, module, name):
        self.module, self.name = module, name


class View:
    def __init__(self, key, kind, count, offset, size, stride, rebuild="_rebuild_tensor_v2"):
        self.storage = ("storage", Global("torch", kind), key, "cpu", count)
        self.arguments = (offset, size, stride, False, collections.OrderedDict())
        self.rebuild = rebuild


class Storage:
    def __init__(self, pid):
        self.pid = pid


class Pickler(pickle._Pickler):
    def persistent_id(self, obj):
        return obj.pid if isinstance(obj, Storage) else None

    def save(self, obj, save_persistent_id=True):
        if isinstance(obj, Global):
            self.write(pickle.GLOBAL + f"{obj.module}\n{obj.name}\n".encode())
        elif isinstance(obj, View):
            self.save(Global("torch._utils", obj.rebuild))
            self.save((Storage(obj.storage), *obj.arguments))
            self.write(pickle.REDUCE)
        else:
            super().save(obj, save_persistent_id)


def pickled(tree, file) -> None:
    Pickler(file, 2).dump(tree)


def zip_file(path, tree, storages: dict[str, bytes], **extra: bytes) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        with archive.open("m/data.pkl", "w") as file:
            pickled(tree, file)
        for key, data in storages.items():
            archive.writestr(f"m/data/{key}", data)
        for name, data in extra.items():
            archive.writestr(f"m/{name}", data)


def legacy_file(path, tree, storages: dict[str, tuple[int, bytes]]) -> None:
    with path.open("wb") as file:
        for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}, tree, list(storages)):
            if part is tree:
                pickled(tree, file)
            else:
                pickle.dump(part, file, 2)
        for count, data in storages.values():
            file.write(struct.pack("<q", count) + data)


NUMBERS = np.arange(12, dtype=np.float32)


def test_strided_views_of_one_storage(tmp_path):
    tree = {
        "transposed": View("0", "FloatStorage", 12, 0, (4, 3), (1, 4)),
        "column": View("0", "FloatStorage", 12, 2, (3,), (4,)),
        "expanded": View("0", "FloatStorage", 12, 5, (2, 2), (0, 1)),
    }
    zip_file(tmp_path / "v.pth", tree, {"0": NUMBERS.tobytes()})
    read = torch_file.read(tmp_path / "v.pth")
    np.testing.assert_array_equal(read["transposed"].load(), NUMBERS.reshape(3, 4).T)
    np.testing.assert_array_equal(read["column"].load(), [2, 6, 10])
    np.testing.assert_array_equal(read["expanded"].load(), [[5, 6], [5, 6]])
    torch_writer.write(tmp_path / "w.pth", read)
    np.testing.assert_array_equal(
        torch_file.read(tmp_path / "w.pth")["transposed"].load(), NUMBERS.reshape(3, 4).T
    )


def test_the_format_before_zip_files(tmp_path):
    half = np.array([1.5, -2], np.float16)
    tree = collections.OrderedDict(
        {
            "a": View("77", "FloatStorage", 12, 4, (2, 4), (4, 1)),
            "b": View("78", "HalfStorage", 2, 0, (2,), (1,)),
        }
    )
    for view in tree.values():
        view.storage += (None,)  # the view metadata that this format carries
    path = tmp_path / "old.pth"
    legacy_file(path, tree, {"77": (12, NUMBERS.tobytes()), "78": (2, half.tobytes())})
    same(torch_file.read(path), {"a": NUMBERS[4:].reshape(2, 4), "b": half})
    whole = path.read_bytes()
    path.write_bytes(whole + b"junk")
    with pytest.raises(UserError, match="damaged: 4 bytes follow the last tensor"):
        torch_file.read(path)
    path.write_bytes(whole[:-9])
    with pytest.raises(UserError, match="cut short"):
        torch_file.read(path)


def test_nested_dicts_become_dotted_names_and_other_leaves_are_left_out(tmp_path):
    view = View("0", "FloatStorage", 12, 0, (12,), (1,))
    tree = {"state_dict": {"module.w": view}, "epoch": 3, "args": {"lr": 0.1, "name": "x"}}
    zip_file(tmp_path / "n.pth", tree, {"0": NUMBERS.tobytes()})
    read = torch_file.read(tmp_path / "n.pth")
    assert list(read) == ["state_dict.module.w"]
    assert list(lazy.strip_wrappers(read, "n.pth")) == ["w"]


def test_several_sections_must_be_chosen_from(tmp_path):
    tensor = lazy.of_array(NUMBERS)
    both = {"model.module.w": tensor, "ema.w": tensor}
    with pytest.raises(UserError, match=r"several sections.*--section"):
        lazy.strip_wrappers(both, "x.pth")
    assert list(lazy.strip_wrappers(both, "x.pth", "ema")) == ["w"]
    assert list(lazy.strip_wrappers(both, "x.pth", "model")) == ["w"]
    with pytest.raises(UserError, match="no section 'emma'"):
        lazy.strip_wrappers(both, "x.pth", "emma")


@pytest.mark.parametrize(
    "module,name",
    [("os", "system"), ("builtins", "eval"), ("torch.hub", "load"), ("numpy", "array")],
)
def test_code_is_refused_and_not_run(tmp_path, module, name):
    class Call:
        def __reduce__(self):
            return (print, ("ran",))

    marker = tmp_path / "ran"
    body = (
        b"\x80\x02" + f"c{module}\n{name}\n".encode()
        + b"X" + struct.pack("<I", len(f"touch {marker}")) + f"touch {marker}".encode() + b"\x85R."
    )  # fmt: skip
    with zipfile.ZipFile(tmp_path / "evil.pth", "w") as archive:
        archive.writestr("m/data.pkl", body)
    with pytest.raises(UserError, match=f"{module}.{name}, which is not weights"):
        torch_file.read(tmp_path / "evil.pth")
    assert not marker.exists()


def test_damage_is_named(tmp_path):
    good = tmp_path / "good.pth"
    write(good, {"w": NUMBERS})
    raw = good.read_bytes()
    for name, data in {
        "cut": raw[:-40],
        "empty": b"",
        "text": b"hello there\n" * 40,
        "half": raw[:90],
    }.items():
        path = tmp_path / f"{name}.pth"
        path.write_bytes(data)
        with pytest.raises(UserError, match=f"{name}.pth"):
            torch_file.read(path)
    with pytest.raises(UserError, match="no such file"):
        torch_file.read(tmp_path / "absent.pth")
    beyond = {"w": View("0", "FloatStorage", 12, 4, (3, 4), (4, 1))}
    zip_file(tmp_path / "beyond.pth", beyond, {"0": NUMBERS.tobytes()})
    with pytest.raises(UserError, match="beyond its storage"):
        torch_file.read(tmp_path / "beyond.pth")
    whole = {"w": View("0", "FloatStorage", 12, 0, (12,), (1,))}
    zip_file(tmp_path / "short.pth", whole, {"0": NUMBERS.tobytes()[:-4]})
    with pytest.raises(UserError, match="storage 0 are missing"):
        torch_file.read(tmp_path / "short.pth")
    zip_file(tmp_path / "long.pth", whole, {"0": NUMBERS.tobytes() + b"junk"})
    with pytest.raises(UserError, match="damaged: storage 0 has 52 bytes, its tensors need 48"):
        torch_file.read(tmp_path / "long.pth")
    zip_file(tmp_path / "big.pth", whole, {"0": NUMBERS.tobytes()}, byteorder=b"big")
    with pytest.raises(UserError, match="big-endian"):
        torch_file.read(tmp_path / "big.pth")


def test_a_flipped_bit_of_a_storage_is_found(tmp_path):
    path, weights = tmp_path / "a.pth", np.arange(12, dtype=np.float32)
    write(path, {"w": weights})
    data = bytearray(path.read_bytes())
    data[data.index(weights.tobytes()) + 5] ^= 8
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"a\.pth: damaged: .*checksum"):
        torch_file.read(path)["w"].load()


def test_an_archive_without_its_beginning_is_named(tmp_path):
    """Offsets of entries then lie before the file."""
    path = tmp_path / "a.pth"
    write(path, {"w": np.arange(4000, dtype=np.float32), "v": np.arange(9, dtype=np.float32)})
    data = path.read_bytes()
    for lost in range(1, len(data), 601):
        path.write_bytes(data[:40] + data[40 + lost :])
        with pytest.raises(UserError, match=r"a\.pth: "):
            for tensor in torch_file.read(path).values():
                tensor.load()


def test_an_existing_file_is_never_overwritten(tmp_path):
    (tmp_path / "mine.pth").write_text("precious")
    with pytest.raises(UserError, match="exists already"):
        write(tmp_path / "mine.pth", {"w": NUMBERS})
    assert (tmp_path / "mine.pth").read_text() == "precious"


def test_a_failed_write_leaves_nothing(tmp_path):
    def broken():
        raise OSError("disk gone")

    tensor = lazy.LazyTensor(np.dtype(np.float32), (3,), broken)
    with pytest.raises(OSError, match="disk gone"):
        torch_writer.write(tmp_path / "x.pth", {"w": tensor})
    assert list(tmp_path.iterdir()) == []


def of_pickle(path, *parts: bytes):
    """A zip file whose pickle consists of these instructions."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("m/data.pkl", pickle.PROTO + b"\x02" + b"".join(parts) + pickle.STOP)
    return path


def doubling(first: bytes, double: bytes) -> bytes:
    """Something that holds the thing before it twice, sixty times over."""
    steps = (b"%bq%c" % (double.replace(b"#", bytes([i])), i + 1) for i in range(60))
    return first + b"q\x00" + b"".join(steps)


LAUGHS = doubling(b"}", b"}(X\x01\x00\x00\x00ah#X\x01\x00\x00\x00bh#u")
HOSTILE = {
    "dicts that hold one another": [LAUGHS],
    "a dict that holds itself": [b"}q\x00X\x01\x00\x00\x00ah\x00s"],
    "a key that takes ages to hash": [b"}", doubling(b")", b"h#h#\x86"), b"K\x01s"],
    "a memo of four thousand million entries": [b"}r\xff\xff\xff\xff"],
    "a byte array of a terabyte": [pickle.BYTEARRAY8, struct.pack("<Q", 1 << 40)],
    "a set": [pickle.EMPTY_SET],
    "a text longer than the file": [b"X\xff\xff\xff\x7fabc"],
    "a number of many digits": [b"I" + b"9" * 100_000 + b"\n"],
    "a name of many characters": [b"}X\x10\x27\x00\x00", b"a" * 10_000, b"K\x01s"],
    "ten thousand dicts in one another": [b"}" * 10_000, b"X\x01\x00\x00\x00a}s"],
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pickles_are_refused_within_bounds(tmp_path, name):
    path = of_pickle(tmp_path / "x.pth", *HOSTILE[name])
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match=r"x\.pth: (not a file|holds no tensors)"):
            torch_file.read(path)
        assert tracemalloc.get_traced_memory()[1] < 50e6
    finally:
        tracemalloc.stop()


def test_tensors_larger_than_their_storage_are_refused(tmp_path):
    many = {"w": View("0", "FloatStorage", 1, 0, (1 << 30, 1 << 10), (0, 0))}
    zip_file(tmp_path / "x.pth", many, {"0": NUMBERS.tobytes()[:4]})
    with pytest.raises(UserError, match="more elements than its storage 0"):
        torch_file.read(tmp_path / "x.pth")


def test_entries_that_lie_about_their_size_or_are_compressed_are_refused(tmp_path):
    whole = {"w": View("0", "FloatStorage", 1 << 28, 0, (1 << 28,), (1,))}
    path = tmp_path / "x.pth"
    zip_file(path, whole, {"0": b"1234"})
    sizes, claimed = b"\x04\x00\x00\x00" * 2, struct.pack("<II", 1 << 30, 1 << 30)
    path.write_bytes(path.read_bytes().replace(sizes, claimed))
    with pytest.raises(UserError, match=r"x\.pth"):
        torch_file.read(path)
    bomb = tmp_path / "bomb.pth"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("m/data.pkl", b"\x80\x02" + b"}0" * 30_000_000 + b"}.")
    with pytest.raises(UserError, match="compressed zip entries"):
        torch_file.read(bomb)
