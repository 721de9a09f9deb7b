"""Makes `corpus/`: small files of the shapes that the targets read, for the mutations to begin with.

    python make_corpus.py        (no packages; PyTorch's files are the tests' fixtures)

All of it is made here or by `analysis/tests/fixtures/make_torch_fixtures.py`: nobody else's data.
"""

import io
import json
import pickle
import pickletools
import shutil
import struct
import sys
import types
import zipfile
from collections import OrderedDict
from pathlib import Path

HERE = Path(__file__).parent / "corpus"
FIXTURES = Path(__file__).parent.parent / "analysis/tests/fixtures"
DATA = Path(__file__).parent.parent / "data/tests/fixtures"
WIDTHS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "I8": 1, "U8": 1}


def safetensors(tensors, metadata=None):
    header, data = ({"__metadata__": metadata} if metadata else {}), b""
    for name, (dtype, shape) in tensors.items():
        count = WIDTHS[dtype]
        for size in shape:
            count *= size
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + count]}
        data += bytes((37 * i + 11) % 64 for i in range(count))
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data


def lora(dtype="F32", rank=2, prefix="base_model.model."):
    return {
        f"{prefix}q.lora_A.weight": (dtype, [rank, 3]),
        f"{prefix}q.lora_B.weight": (dtype, [4, rank]),
    }


def config(**more):
    return json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 4, **more}).encode()


def sentencepiece():
    """Model files: protocol buffers of pieces, the trainer's settings and the normaliser's."""

    def field(number, value):
        if isinstance(value, int):
            return bytes([number << 3 & 0x7F | (0x80 if number > 15 else 0)]) + (
                bytes([number >> 4]) if number > 15 else b""
            ) + bytes([value])
        if isinstance(value, float):
            return bytes([number << 3 | 5]) + struct.pack("<f", value)
        return bytes([number << 3 | 2, len(value)]) + value

    def piece(text, score, kind=1):
        return field(1, field(1, text.encode()) + field(2, score) + field(3, kind))

    pieces = piece("<unk>", 0.0, 2) + piece("[CLS]", 0.0, 3) + piece("\u2581a", -1.0) + piece("b", -2.5)
    pieces += piece("ab", -1.5) + piece("ba", -3.0, 4) + piece("<0x41>", 0.0, 6)
    # One replacement: the double array's unit 0 and a leaf, then the texts.
    charsmap = struct.pack("<I", 8) + struct.pack("<II", 0x400, 0x80000000) + b"u\0"
    return {
        "plain": pieces + field(2, field(3, 1)),
        "bytes": pieces + field(2, field(3, 1) + field(35, 1)),
        "charsmap": pieces + field(3, field(2, charsmap) + field(3, 1) + field(4, 0)),
    }


CONFIGS = {
    "plain": config(),
    "patterns": config(rank_pattern={"layers.1.q": 4}, alpha_pattern={"q": 3, "(k|v)": 2.5}),
    "variants": config(use_rslora=True, use_dora=False, fan_in_fan_out=True, bias="none"),
    "dora": config(use_dora=True, use_bdlora={"a": 1}),
    "bases": config(init_lora_weights="pissa_niter_16", target_parameters=["mlp.experts.up"]),
    "other": json.dumps({"peft_type": "LOHA", "r": 8, "alpha": 8}).encode(),
    "texts": json.dumps({"r": "8", "lora_alpha": None, "target_modules": ["\u00fc"]}).encode(),
    "list": b"[]",
}

RULES = {
    "plain": "effective_rank < 2",
    "share": 'share(energy_rank_99 <= 1) > 0.5 and not name ~ "lm_head"',
    "functions": "any(non_finite) or all(zero_update) or count(dead_direction) >= 3",
    "statistics": "max(stable_rank) - min(stable_rank) > 1e3 * mean(scale) / 2.5e-7",
    "texts": "kind == \"linear\" and path !~ 'a\\'b' or (role != \"q\" and format ~ \"peft\")",
    "totals": "not (refused > 0 or adapters == 0) and -modules + findings <= -(-3)",
    "unknown": "effective_rnk = 2 && x",
}

TABLES = {
    "plain": ("adapter,seed,loss\na,0,0.5\nb,1,\n", '[{"adapter": "a", "seed": 0, "loss": 0.5}, {"adapter": "b"}]'),
    "quotes": ('\ufeff"a, b","c""d"\r\n 1 ,"x\ny"\r\n\r\nNA,007\r\n', '\ufeff{"a": "\\u00fc\\n", "b": true}\n\n{"b": null}\n'),
    "tabs": ("a\tb\n1e300\t-0\n", '{"a": 1e300, "b": -0, "c": 18446744073709551615}'),
    "faults": ('a,a\n"1', '[{"a": 1, "a": 2}, {"b": [1, {"c": {}}]}, {"a": NaN}'),
}

# Stand-ins for PyTorch's names, so that Python's own pickler mentions them.
for module in ["torch", "torch._utils", "torch._tensor", "torch.nn", "torch.nn.parameter", "torch.storage"]:
    sys.modules[module] = types.ModuleType(module)


def named(module, name):
    def stand_in():
        pass

    stand_in.__module__, stand_in.__qualname__ = module, name
    setattr(sys.modules[module], name, stand_in)
    return stand_in


KINDS = {
    name: (named("torch", name), width)
    for name, width in [
        ("FloatStorage", 4),
        ("HalfStorage", 2),
        ("BFloat16Storage", 2),
        ("DoubleStorage", 8),
        ("CharStorage", 1),
        ("LongStorage", 8),
    ]
}
UNTYPED = named("torch.storage", "UntypedStorage")
FLOAT8 = named("torch", "float8_e4m3fn")
CLASS = named("torch", "Tensor")
SIZE = named("torch", "Size")
REBUILD = [named("torch._utils", f"_rebuild_tensor{version}") for version in ("", "_v2", "_v3")]
PARAMETER = named("torch._utils", "_rebuild_parameter")
FROM_TYPE = named("torch._tensor", "_rebuild_from_type_v2")


class Storage:
    """64 bytes under a key."""

    def __init__(self, key, kind="FloatStorage"):
        self.id = ("storage", KINDS[kind][0], key, "cpu", 64 // KINDS[kind][1])


class Untyped:
    id = ("storage", UNTYPED, "1", "cpu", 64)


class Call:
    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


class Pickler(pickle.Pickler):
    def persistent_id(self, value):
        return getattr(value, "id", None)


def pickled(value, protocol=2):
    out = io.BytesIO()
    Pickler(out, protocol).dump(value)
    return out.getvalue()


def view(storage, offset, size, stride):
    return Call(REBUILD[1], storage, offset, size, stride, False, OrderedDict())


def pickles():
    shared = Storage("0")
    a, b = view(shared, 0, (2, 3), (3, 1)), view(shared, 6, (4, 2), (2, 1))
    factors = OrderedDict([("q.lora_A.weight", a), ("q.lora_B.weight", b)])
    yield "factors", factors, 2
    yield "factors4", factors, 4
    yield "factors5", factors, 5
    yield "types", {name: view(Storage(str(i % 3), name), 0, (8,), (1,)) for i, name in enumerate(KINDS)}, 2
    views = {"t": view(shared, 0, (3, 2), (1, 3)), "e": view(shared, 1, (2, 2), (0, 0))}
    views |= {"c": view(shared, 0, (2, 2, 2), (1, 8, 4)), "s": view(shared, 15, (), ())}
    yield "views", views, 2
    float8 = Call(REBUILD[2], Untyped(), 8, (4, 4), (4, 1), False, OrderedDict(), FLOAT8)
    yield "float8", {"w": float8}, 2
    yield "parameter", {"w": Call(PARAMETER, a, True, OrderedDict())}, 2
    yield "old", {"w": Call(REBUILD[0], shared, 0, (4,), (1,))}, 2
    by_type = Call(FROM_TYPE, REBUILD[1], CLASS, b.call[1], {})
    yield "from-type", {"w": by_type, "shape": Call(SIZE, (2, 3))}, 2
    record = {"epoch": 1.5, "state_dict": factors, "optimizer": {"state": [a]}, "extra": [b, (a,)]}
    yield "record", {"model": record, "big": 1 << 80, "bytes": b"x", "negative": -70000}, 3
    yield "list", [a, b], 2


def main():
    shutil.rmtree(HERE, ignore_errors=True)

    def add(target, name, content):
        (HERE / target).mkdir(parents=True, exist_ok=True)
        (HERE / target / name).write_bytes(content)

    files = {f"lora-{dtype}": safetensors(lora(dtype)) for dtype in WIDTHS}
    files["metadata"] = safetensors(lora(), {"format": "pt", "note": "\u00fc"})
    files["empty"] = safetensors({})
    files["shapes"] = safetensors({"a": ("F32", []), "b": ("F16", [0, 3]), "c": ("I8", [1, 2, 3, 1])})
    files["conv"] = safetensors(
        {"c.lora_A.weight": ("F32", [2, 3, 3, 1]), "c.lora_B.weight": ("F32", [4, 2, 1, 1])}
    )
    files["lfs"] = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"
    files["html"] = b"<!DOCTYPE html><html></html>"
    for name, content in files.items():
        add("safetensors", name, content)
    for file in sorted((FIXTURES / "torch").iterdir()):
        content = file.read_bytes()
        if content.startswith(b"PK"):
            add("torch_zip", file.stem, content)
            if not file.stem.startswith(("deflated", "nested")):
                with zipfile.ZipFile(file) as archive:
                    name = next(name for name in archive.namelist() if name.endswith("data.pkl"))
                    add("pickle", f"of-{file.stem}", archive.read(name))
        elif file.stem.endswith("-sequence"):
            stream = io.BytesIO(content)
            for _ in range(3):
                list(pickletools.genops(stream))
            add("torch_sequence", file.stem, stream.read())
    for name, value, protocol in pickles():
        add("pickle", name, pickled(value, protocol))
    shards = {"weight_map": {"a": "model-1-of-2.safetensors", "b": "model-2-of-2.safetensors"}}
    indices = {
        "plain": {"metadata": {"total_size": 8}, **shards},
        "outside": {"weight_map": {"a": "../b", "c": "/d"}},
        "empty": {"weight_map": {}},
        "json": {"weight_map": {"a": "model.safetensors.index.json"}},
        "numbers": {"weight_map": {"a": 1}},
        "unicode": {"weight_map": {"\u00fc\n": "\u00fc.bin"}},
    }
    for name, index in indices.items():
        add("index", name, json.dumps(index).encode())
    for name, text in CONFIGS.items():
        add("config", name, text)
    number = 0
    for of_config in [b"", *CONFIGS.values()]:
        for kind, weights in [(0, files["lora-F32"]), (0, files["conv"]), (2, files["lora-BF16"])]:
            head = struct.pack("<HB", len(of_config), kind)
            add("audit", f"folder-{number:02}", head + of_config + weights)
            number += 1
    for kind, file in enumerate(["plain.bin", "list.pt", "system.bin"]):
        weights = (FIXTURES / "torch" / file).read_bytes()
        add("audit", f"torch-{kind}", struct.pack("<HB", 0, 1) + weights)
    for number in range(96):
        # Choices: sizes from 1 to 12, then every layout with and without a base.
        start = bytes((7 * i + number) % 12 for i in range(14))
        settings = bytes([number % 11, 1 << number % 8, 1 << number // 2 % 8, 1 << number // 4 % 8 & 15])
        files = bytes([number % 2, number // 2 % 4, 0, 0]) + bytes(number * i % 40 for i in range(64))
        modules = bytes([1]) + b"".join(
            bytes([module, 0, (number + 17 * module) % 33]) + bytes(24) for module in (number % 8, 4)
        )
        add("adapter", f"choices-{number:02}", start + settings + files + modules)
    for name, rule in RULES.items():
        add("rule", name, rule.encode())
    for name, (csv, records) in TABLES.items():
        add("metrics_csv", name, csv.encode())
        add("metrics_json", name, records.encode())
    for image in sorted((DATA / "images").glob("*.jpg")):
        if image.stat().st_size < 4000:
            add("jpeg", image.stem, image.read_bytes())
    for name, model in sentencepiece().items():
        for text in ["", "ab \u00fc ba", "x" * 20]:
            add("sentencepiece", f"{name}-{len(text)}", bytes([len(text.encode())]) + text.encode() + model)
    head = struct.pack("<HB", 0, 3)
    add("audit", "index", head + json.dumps({"weight_map": {"a": "lora.safetensors"}}).encode())


main()
