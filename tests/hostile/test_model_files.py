"""Malformed model folders: the program must end before it opens its port, with exit code 65 (bad)
or 66 (absent) and a message that names the file and, where there is one, the tensor."""

import json
import os
import shutil
import struct
import subprocess

import pytest
from conftest import BINARY, ROOT

GOOD = ROOT / "tests/golden/checkpoints/mixtral"
SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
BAD, ABSENT = 65, 66


def split(raw):
    """Header and data of a safetensors file."""
    (length,) = struct.unpack("<Q", raw[:8])
    return json.loads(raw[8 : 8 + length]), raw[8 + length :]


def join(header, data):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


class Folder:
    """A copy of a good model to damage."""

    def __init__(self, path):
        self.path = path
        for name in ("config.json", SINGLE):
            shutil.copy(GOOD / name, path / name)

    def read(self, name=SINGLE):
        return (self.path / name).read_bytes()

    def write(self, content, name=SINGLE):
        (self.path / name).write_bytes(content)

    def header(self, change):
        """Lets `change` work on the header; keeps the data."""
        header, data = split(self.read())
        header = change(header) or header
        self.write(join(header, data))

    def config(self, **changes):
        config = json.loads(self.read("config.json"))
        for key, value in changes.items():
            if value is ...:
                config.pop(key, None)
            else:
                config[key] = value
        self.write(json.dumps(config).encode(), "config.json")

    def shard(self):
        """Makes it two shards and an index."""
        header, data = split(self.read())
        header.pop("__metadata__", None)
        weight_map = {}
        halves = [{}, {}]
        blobs = [b"", b""]
        for i, (name, entry) in enumerate(header.items()):
            begin, end = entry["data_offsets"]
            half = i % 2
            at = len(blobs[half])
            halves[half][name] = {**entry, "data_offsets": [at, at + end - begin]}
            blobs[half] += data[begin:end]
            weight_map[name] = f"part{half}.safetensors"
        for half in (0, 1):
            self.write(join(halves[half], blobs[half]), f"part{half}.safetensors")
        (self.path / SINGLE).unlink()
        self.index(weight_map)
        return weight_map

    def index(self, weight_map):
        self.write(json.dumps({"metadata": {}, "weight_map": weight_map}).encode(), INDEX)


def start(folder, *more):
    command = [str(BINARY), "serve", str(folder.path), "--port", "0", "--skip-tokenizer-init"]
    command += ["--prepared-cache", "off", "--kv-cache-memory-bytes", "10000000", *more]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, errors="replace")


NORM = "model.norm.weight"
ROUTER = "model.layers.0.block_sparse_moe.gate.weight"


def set_field(name, field, value):
    def change(header):
        header[name][field] = value

    return lambda folder: folder.header(change)


def rename(old, new):
    def change(header):
        return {new if name == old else name: entry for name, entry in header.items()}

    return lambda folder: folder.header(change)


def shift_last(folder, by):
    def change(header):
        last = max(
            (n for n in header if n != "__metadata__"), key=lambda n: header[n]["data_offsets"]
        )
        header[last]["data_offsets"] = [x + by for x in header[last]["data_offsets"]]

    folder.header(change)


def extra_tensor(folder):
    header, data = split(folder.read())
    header["model.extra.weight"] = {
        "dtype": "F32",
        "shape": [1],
        "data_offsets": [len(data), len(data) + 4],
    }
    folder.write(join(header, data + bytes(4)))


def duplicate_key(folder):
    header, data = split(folder.read())
    text = json.dumps(header)
    entry = json.dumps(header[NORM])
    folder.write(join((text[:-1] + f', "{NORM}": {entry}' + "}").encode(), data))


def index_value(value):
    def apply(folder):
        weight_map = folder.shard()
        weight_map[NORM] = value
        folder.index(weight_map)

    return apply


def outside_link(folder):
    weight_map = folder.shard()
    target = folder.path.parent / "elsewhere.safetensors"
    shard = folder.path / weight_map[NORM]
    shutil.move(shard, target)
    shard.symlink_to(target)


def replace_shard(make):
    def apply(folder):
        shard = folder.path / folder.shard()[NORM]
        shard.unlink()
        make(shard)

    return apply


def two_shards_hold_it(folder):
    weight_map = folder.shard()
    other = next(s for s in set(weight_map.values()) if s != weight_map[NORM])
    header, data = split(folder.read(weight_map[NORM]))
    begin, end = header[NORM]["data_offsets"]
    extra, blob = split(folder.read(other))
    extra[NORM] = {**header[NORM], "data_offsets": [len(blob), len(blob) + end - begin]}
    folder.write(join(extra, blob + data[begin:end]), other)


def listed_but_absent(folder):
    weight_map = folder.shard()
    weight_map["model.ghost.weight"] = weight_map[NORM]
    folder.index(weight_map)


def not_listed(folder):
    weight_map = folder.shard()
    weight_map.pop(NORM)
    folder.index(weight_map)


def million_shards(folder):
    folder.shard()
    folder.index({f"t{i}": f"s{i}.safetensors" for i in range(1_000_000)})


def config_text(text):
    return lambda folder: folder.write(text, "config.json")


def config(**changes):
    return lambda folder: folder.config(**changes)


def remove(name):
    return lambda folder: (folder.path / name).unlink()


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 272248\n"

# What, how the good folder is damaged, exit code, what the message must say.
ROWS = [
    # Containers
    ("weights absent", remove(SINGLE), ABSENT, [SINGLE]),
    ("weights empty", lambda f: f.write(b""), BAD, [SINGLE, "empty"]),
    ("weights a Git LFS pointer", lambda f: f.write(LFS), BAD, [SINGLE, "git lfs pull"]),
    ("weights are text", lambda f: f.write(b"<html>404 not found</html>"), BAD, [SINGLE]),
    ("header length 0", lambda f: f.write(bytes(8) + b"{}"), BAD, [SINGLE, "header is empty"]),
    ("header length 2^64-1", lambda f: f.write(b"\xff" * 8 + b"{}"), BAD, [SINGLE, "header of"]),
    ("header past the end", lambda f: f.write(f.read()[:100]), BAD, [SINGLE, "truncated"]),
    ("header not UTF-8", lambda f: f.write(join(b'{"\xff": 1}', b"")), BAD, [SINGLE]),
    ("header a list", lambda f: f.write(join(b"[]", b"")), BAD, [SINGLE]),
    (
        "header nested deep",
        lambda f: f.write(join(b'{"a":' + b"[" * 100_000, b"")),
        BAD,
        ["deeper"],
    ),
    ("one byte short", lambda f: f.write(f.read()[:-1]), BAD, [SINGLE, "truncated"]),
    ("one byte long", lambda f: f.write(f.read() + b"x"), BAD, [SINGLE, "no tensor"]),
    ("duplicate tensor", duplicate_key, BAD, [SINGLE, NORM, "twice"]),
    ("gap", lambda f: shift_last(f, 4), BAD, [SINGLE, "no tensor"]),
    ("overlap", lambda f: shift_last(f, -4), BAD, [SINGLE, "overlaps"]),
    ("offsets reversed", set_field(NORM, "data_offsets", [8, 0]), BAD, [NORM, "reversed"]),
    ("offset 2^63-1", set_field(NORM, "data_offsets", [0, 2**63 - 1]), BAD, [NORM]),
    ("unknown dtype", set_field(NORM, "dtype", "F4"), BAD, [NORM, "unknown dtype"]),
    ("dimension negative", set_field(NORM, "shape", [-64]), BAD, [NORM, "dimension"]),
    ("product wraps", set_field(NORM, "shape", [2**62, 2**62]), BAD, [NORM, "overflows"]),
    ("shape and range differ", set_field(NORM, "shape", [63]), BAD, [NORM, "bytes"]),
    (
        "metadata not strings",
        lambda f: f.header(lambda h: {**h, "__metadata__": {"a": 1}}),
        BAD,
        [SINGLE, "__metadata__"],
    ),
    # Tensors against the config
    ("tensor missing", rename(NORM, "model.norm.weight2"), BAD, [NORM, "missing"]),
    ("router missing", rename(ROUTER, "x"), BAD, [ROUTER, "missing"]),
    ("experts fewer than in file", config(num_local_experts=7), BAD, [ROUTER, "shape"]),
    ("tensor unexpected", extra_tensor, BAD, ["model.extra.weight", "unexpected"]),
    ("layer too few in file", config(num_hidden_layers=3), BAD, ["model.layers.2.", "missing"]),
    ("hidden size differs", config(hidden_size=128), BAD, ["model.embed_tokens.weight", "shape"]),
    ("vocabulary differs", config(vocab_size=257), BAD, ["model.embed_tokens.weight", "shape"]),
    ("weights not floats", set_field(NORM, "dtype", "I32"), BAD, [NORM]),
    # Index
    ("index not JSON", lambda f: (f.shard(), f.write(b"{", INDEX)), BAD, [INDEX]),
    ("index without map", lambda f: (f.shard(), f.write(b"{}", INDEX)), BAD, [INDEX, "weight_map"]),
    ("shard climbs out", index_value("../../x.safetensors"), BAD, [INDEX, NORM]),
    ("shard absolute", index_value("/etc/passwd"), BAD, [INDEX, NORM]),
    ("shard is the index", index_value(INDEX), BAD, [INDEX, NORM]),
    ("shard a number", index_value(7), BAD, [INDEX, NORM]),
    ("shard missing", index_value("gone.safetensors"), ABSENT, ["gone.safetensors", INDEX]),
    ("shard links out", outside_link, BAD, ["outside the model's folder"]),
    (
        "shard links to itself",
        replace_shard(lambda s: s.symlink_to(s.name)),
        BAD,
        ["back to itself"],
    ),
    (
        "shard link dangles",
        replace_shard(lambda s: s.symlink_to("void")),
        ABSENT,
        ["does not exist"],
    ),
    ("shard a folder", replace_shard(lambda s: s.mkdir()), ABSENT, ["not a regular file"]),
    ("shard a FIFO", replace_shard(os.mkfifo), ABSENT, ["not a regular file"]),
    ("tensor in two shards", two_shards_hold_it, BAD, [NORM, "also in"]),
    ("tensor listed but absent", listed_but_absent, BAD, ["model.ghost.weight"]),
    ("tensor not listed", not_listed, BAD, [NORM, "not listed"]),
    ("a million shards", million_shards, BAD, [INDEX, "shards"]),
    # config.json
    ("config absent", remove("config.json"), ABSENT, ["config.json"]),
    ("config empty", config_text(b""), BAD, ["config.json"]),
    ("config truncated", config_text(b'{"model_type": "mix'), BAD, ["config.json"]),
    ("config a list", config_text(b"[]"), BAD, ["config.json"]),
    ("config not UTF-8", config_text(b'{"model_type": "\xff"}'), BAD, ["config.json"]),
    (
        "config key twice",
        config_text(b'{"hidden_size": 1, "hidden_size": 2}'),
        BAD,
        ["hidden_size"],
    ),
    ("config nested deep", config_text(b'{"a":' + b"[" * 100_000), BAD, ["config.json", "deeper"]),
    ("config with 1e999", config_text(b'{"rms_norm_eps": 1e999}'), BAD, ["config.json"]),
    ("model_type unknown", config(model_type="gpt17"), BAD, ["config.json", "gpt17", "mixtral"]),
    ("model_type missing", config(model_type=...), BAD, ["config.json", "model_type"]),
    ("hidden_size missing", config(hidden_size=...), BAD, ["hidden_size"]),
    ("heads 0", config(num_attention_heads=0), BAD, ["num_attention_heads"]),
    ("heads not divisible", config(num_key_value_heads=3), BAD, ["3 key-value heads"]),
    ("layers 0", config(num_hidden_layers=0), BAD, ["num_hidden_layers"]),
    ("layers 10^9", config(num_hidden_layers=10**9), BAD, ["num_hidden_layers"]),
    ("layers negative", config(num_hidden_layers=-1), BAD, ["num_hidden_layers"]),
    ("layers a string", config(num_hidden_layers="2"), BAD, ["num_hidden_layers"]),
    ("layers fractional", config(num_hidden_layers=1.5), BAD, ["num_hidden_layers"]),
    ("hidden 2^62", config(hidden_size=2**62), BAD, ["hidden_size"]),
    ("experts 0", config(num_local_experts=0), BAD, ["num_local_experts"]),
    ("top-k over experts", config(num_experts_per_tok=9), BAD, ["num_experts_per_tok"]),
    ("top-k 0", config(num_experts_per_tok=0), BAD, ["num_experts_per_tok"]),
    ("rope factor 0", config(rope_scaling={"rope_type": "linear", "factor": 0}), BAD, ["factor"]),
    (
        "rope type unknown",
        config(rope_scaling={"rope_type": "helix", "factor": 2.0}),
        BAD,
        ["helix"],
    ),
    ("rope theta 0", config(rope_theta=0), BAD, ["rope_theta"]),
    ("epsilon negative", config(rms_norm_eps=-1), BAD, ["rms_norm_eps"]),
    ("dtype unknown", config(torch_dtype="int3"), BAD, ["dtype"]),
]


def check(result, code, words):
    output = result.stdout + result.stderr
    assert result.returncode == code, output
    assert "serving" not in output
    assert "Sanitizer" not in output
    for word in words:
        assert word in output
    assert len(output) < 20_000


@pytest.mark.parametrize("damage,code,words", [row[1:] for row in ROWS], ids=[r[0] for r in ROWS])
def test_start_is_refused(tmp_path, damage, code, words):
    (tmp_path / "model").mkdir()
    folder = Folder(tmp_path / "model")
    damage(folder)
    check(start(folder), code, words)


LONG = "x" * 100_000


@pytest.mark.parametrize("command", ["serve", "inspect", "plan"])
@pytest.mark.parametrize(
    "damage",
    [
        config(model_type=LONG),
        config(torch_dtype=LONG),
        config(hidden_act=LONG),
        config(architectures=[LONG]),
        config(rope_scaling={"rope_type": LONG, "factor": 2.0}),
        config(rope_parameters={LONG: 3}),
        config(quantization_config={"quant_method": LONG}),
        config(num_hidden_layers=LONG),
        config(model_type="mixtral\x1b[31m"),
    ],
    ids=lambda damage: "",
)
def test_no_long_text_of_a_file_comes_back(tmp_path, command, damage):
    folder = Folder(tmp_path)
    damage(folder)
    command = [str(BINARY), command, str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert result.returncode == BAD, result.stderr
    assert len(result.stdout + result.stderr) < 1000
    assert "\x1b" not in result.stderr


@pytest.mark.parametrize("command", ["serve", "inspect", "bench latency"])
@pytest.mark.parametrize("name", ["config.json", SINGLE, "generation_config.json"])
def test_a_file_that_links_to_itself(tmp_path, command, name):
    folder = Folder(tmp_path)
    (folder.path / name).unlink(missing_ok=True)
    (folder.path / name).symlink_to(name)
    # The folder has no tokenizer, which serve would look for first.
    more = ["--skip-tokenizer-init"] if command == "serve" else []
    command = [str(BINARY), *command.split(), str(tmp_path), *more]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    check(result, BAD, [name, "back to itself"])


def test_the_undamaged_folders_serve(tmp_path, serve):
    """The rows prove nothing unless the folder they start from is good."""
    folder = Folder(tmp_path)
    arguments = ["--skip-tokenizer-init", "--prepared-cache", "off"]
    arguments += ["--kv-cache-memory-bytes", "10000000"]
    serve(folder.path, *arguments)
    folder.shard()
    (folder.path / "consolidated.safetensors").write_bytes(b"not named in the index, so not read")
    serve(folder.path, *arguments)


def test_config_that_names_code_runs_none(tmp_path, serve):
    folder = Folder(tmp_path)
    folder.config(auto_map={"AutoModelForCausalLM": "evil.Model"})
    folder.write(b"open('ran', 'w')", "evil.py")
    served = serve(folder.path, "--skip-tokenizer-init", "--kv-cache-memory-bytes", "10000000")
    assert "auto_map" in served.log()
    assert not (folder.path / "ran").exists()


def test_truncated_at_every_16_kilobytes(tmp_path):
    """The parser's own test cuts at every byte; this is that the program passes it on."""
    folder = Folder(tmp_path)
    whole = folder.read()
    for size in range(0, len(whole), 16384):
        folder.write(whole[:size])
        check(start(folder), BAD, [SINGLE])


def write_nan(folder, name):
    """Not a number in every place of a tensor."""
    header, data = split(folder.read())
    begin, end = header[name]["data_offsets"]
    nan = {"F32": b"\x00\x00\xc0\x7f", "BF16": b"\xc0\x7f", "F16": b"\x00\x7e"}
    value = nan[header[name]["dtype"]]
    values = value * ((end - begin) // len(value))
    folder.write(join(header, data[:begin] + values + data[end:]))


def test_a_bench_of_numbers_that_are_none(tmp_path):
    folder = Folder(tmp_path)
    write_nan(folder, NORM)
    command = [str(BINARY), "bench", "throughput", str(tmp_path), "--requests", "2"]
    command += ["--input-len", "4", "--output-len", "4", "--prepared-cache", "off"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    check(result, BAD, ["2 of 2 requests failed", "NaN"])


def test_not_a_number_in_the_router_is_told(tmp_path, serve):
    folder = Folder(tmp_path)
    write_nan(folder, ROUTER)
    served = serve(folder.path, "--skip-tokenizer-init", "--kv-cache-memory-bytes", "10000000")
    assert any(ROUTER in line and "NaN" in line for line in served.lines)
