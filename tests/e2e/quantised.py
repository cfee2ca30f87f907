"""Writes quantised copies of a model's folder, each format by its published description, and the
folder of the floats that the copy stands for."""

import json
import re
import shutil

import numpy as np

LINEAR = re.compile(r".*(_proj|\.w[123])\.weight$")
NUMPY = {"F32": np.float32, "F16": np.float16, "I32": np.int32, "I8": np.int8, "U8": np.uint8}


def read_safetensors(path):
    """Each tensor's dtype, shape and bytes, by name."""
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    header.pop("__metadata__", None)
    return {
        name: (entry["dtype"], entry["shape"], data[8 + size :][slice(*entry["data_offsets"])])
        for name, entry in header.items()
    }


def write_safetensors(path, tensors):
    header, data = {}, b""
    parts = []
    at = 0
    for name, (dtype, shape, raw) in tensors.items():
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + len(raw)]}
        parts.append(raw)
        at += len(raw)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    data = b"".join(parts)
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def floats(dtype, shape, raw):
    if dtype == "BF16":
        return (
            (np.frombuffer(raw, np.uint16).astype(np.uint32) << 16).view(np.float32).reshape(shape)
        )
    return np.frombuffer(raw, NUMPY[dtype]).astype(np.float32).reshape(shape)


def tensor(dtype, values):
    kind = NUMPY.get(dtype, np.uint8)
    return dtype, list(values.shape), np.ascontiguousarray(values, kind).tobytes()


def affine(weight, group, bits=4):
    """Integers, zero points and scales of groups along the inputs; and the values."""
    outputs, inputs = weight.shape
    parts = weight.reshape(outputs, inputs // group, group)
    low = np.minimum(parts.min(-1), 0)
    high = np.maximum(parts.max(-1), 0)
    scales = np.maximum((high - low) / (2**bits - 1), 1e-4).astype(np.float16)
    wide = scales.astype(np.float64)
    zeros = np.clip(np.round(-low / wide), 1, 2**bits - 1)
    quants = np.clip(np.round(parts / wide[..., None]) + zeros[..., None], 0, 2**bits - 1)
    values = ((quants - zeros[..., None]) * wide[..., None]).reshape(outputs, inputs)
    return (
        quants.reshape(outputs, inputs).astype(np.uint32),
        zeros.astype(np.uint32),
        scales,
        values,
    )


def words(values, bits, places=None):
    """Integers along the last axis, so many to a word as fit, the first lowest."""
    each = 32 // bits
    parts = values.reshape(*values.shape[:-1], -1, each)
    if places is not None:
        parts = parts[..., places]
    shifts = np.arange(each, dtype=np.uint32) * bits
    return np.bitwise_or.reduce(parts << shifts, axis=-1).astype(np.uint32).view(np.int32)


def awq(weight):
    quants, zeros, scales, values = affine(weight, 64)
    order = [0, 2, 4, 6, 1, 3, 5, 7]
    return {
        ".qweight": tensor("I32", words(np.ascontiguousarray(quants.T), 4, order)),
        ".qzeros": tensor("I32", words(np.ascontiguousarray(zeros.T), 4, order)),
        ".scales": tensor("F16", scales.T),
    }, values


def gptq(weight):
    """Inputs reordered before grouping; zero points stored less one."""
    inputs = weight.shape[1]
    order = np.random.default_rng(3).permutation(inputs)
    quants, zeros, scales, sorted_values = affine(weight[:, order], 64)
    back = np.argsort(order)
    group = (back // 64).astype(np.int32)
    return {
        ".qweight": tensor("I32", words(quants[:, back], 4).T),
        ".qzeros": tensor("I32", words(np.ascontiguousarray(zeros.T) - 1, 4)),
        ".scales": tensor("F16", scales.T),
        ".g_idx": tensor("I32", group),
    }, sorted_values[:, back]


def int8(weight):
    scales = (np.abs(weight).max(1, keepdims=True) / 127).astype(np.float32)
    quants = np.clip(np.round(weight / scales), -127, 127)
    return {
        ".weight": tensor("I8", quants),
        ".weight_scale": tensor("F32", scales),
    }, quants.astype(np.float64) * scales


def e4m3_values():
    bits = np.arange(127)
    exponent, mantissa = bits >> 3, bits & 7
    return np.where(
        exponent == 0, mantissa / 8 * 2.0**-6, (1 + mantissa / 8) * 2.0 ** (exponent - 7.0)
    )


def fp8(weight):
    """Blocks of 128 x 128, the last ones smaller."""
    outputs, inputs = weight.shape
    table = e4m3_values()
    middles = (table[1:] + table[:-1]) / 2
    rows, cols = -(-outputs // 128), -(-inputs // 128)
    scales = np.zeros((rows, cols), np.float32)
    codes = np.zeros((outputs, inputs), np.uint8)
    values = np.zeros((outputs, inputs))
    for i in range(rows):
        for j in range(cols):
            at = np.s_[i * 128 : (i + 1) * 128, j * 128 : (j + 1) * 128]
            block = weight[at]
            scales[i, j] = np.abs(block).max() / 448
            code = np.searchsorted(middles, np.abs(block) / scales[i, j])
            codes[at] = code | (block < 0) << 7
            values[at] = table[code] * np.sign(block) * scales[i, j]
    return {
        ".weight": ("F8_E4M3", [outputs, inputs], codes.tobytes()),
        ".weight_scale_inv": tensor("F32", scales),
    }, values


FORMATS = {
    "awq": (
        awq,
        {"quant_method": "awq", "bits": 4, "group_size": 64, "zero_point": True, "version": "gemm"},
        "4-bit AWQ in groups of 64",
    ),
    "gptq": (
        gptq,
        {"quant_method": "gptq", "bits": 4, "group_size": 64, "desc_act": True, "sym": False},
        "4-bit GPTQ in groups of 64",
    ),
    "int8": (
        int8,
        {
            "quant_method": "compressed-tensors",
            "format": "int-quantized",
            "config_groups": {
                "group_0": {
                    "targets": ["Linear"],
                    "weights": {"num_bits": 8, "type": "int", "strategy": "channel"},
                }
            },
            "ignore": ["lm_head", "re:.*gate$"],
        },
        "int8 by channel",
    ),
    "fp8": (
        fp8,
        {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128]},
        "fp8 in blocks of 128 x 128",
    ),
}


def write_twins(model, name, quantised, twin):
    """Copies of the folder `model`: quantised, and as the floats that this means. Returns how the
    program is to call the format."""
    quantise, config, called = FORMATS[name]
    tensors = {}
    for path in sorted(model.glob("*.safetensors")):
        tensors |= read_safetensors(path)
    stored, meant = {}, {}
    for key, entry in tensors.items():
        if not LINEAR.match(key):
            stored[key] = meant[key] = entry
            continue
        parts, values = quantise(floats(*entry))
        stored |= {key.removesuffix(".weight") + suffix: part for suffix, part in parts.items()}
        meant[key] = tensor("F32", values.astype(np.float32))
    for folder, content in ((quantised, stored), (twin, meant)):
        folder.mkdir()
        for path in model.iterdir():
            if path.is_file() and "safetensors" not in path.name:
                shutil.copy(path, folder)
        write_safetensors(folder / "model.safetensors", content)
    told = json.loads((quantised / "config.json").read_text())
    told["quantization_config"] = config
    (quantised / "config.json").write_text(json.dumps(told))
    return called
