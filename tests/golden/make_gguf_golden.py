#!/usr/bin/env python3
"""Makes gguf_blocks.safetensors: random blocks of every GGUF type that is read, and what the `gguf`
package says they mean.

    python3 -m venv venv && venv/bin/pip install gguf safetensors
    venv/bin/python tests/golden/make_gguf_golden.py tests/golden

For a type Q4_K: Q4_K.stored, U8 [rows, bytes], and Q4_K.values, F32 [rows, values]. All bits of a
block are random, but blocks with a scale that is infinite, no number or huge are drawn again.
"""

import pathlib
import sys

import numpy as np
from gguf import GGMLQuantizationType, quants
from gguf.constants import GGML_QUANT_SIZES
from safetensors.numpy import save_file

TYPES = (
    "Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q3_K Q4_K Q5_K Q6_K IQ4_NL IQ4_XS MXFP4 TQ1_0 TQ2_0 "
    "IQ1_S IQ1_M IQ2_XXS IQ2_XS IQ2_S IQ3_XXS IQ3_S"
).split()
ROWS = 2
BLOCKS = 2


def draw(random, kind):
    """One block and its values."""
    _, size = GGML_QUANT_SIZES[kind]
    while True:
        block = random.integers(0, 256, (1, size), dtype=np.uint8)
        with np.errstate(all="ignore"):
            values = quants.dequantize(block, kind)
        if np.isfinite(values).all() and np.abs(values).max() < 1e4:
            return block, values


def main(folder):
    random = np.random.default_rng(13)
    tensors = {}
    for name in TYPES:
        drawn = [draw(random, GGMLQuantizationType[name]) for _ in range(ROWS * BLOCKS)]
        for key, index in (("stored", 0), ("values", 1)):
            whole = np.concatenate([pair[index] for pair in drawn])
            tensors[f"{name}.{key}"] = np.ascontiguousarray(whole.reshape(ROWS, -1))
    save_file(tensors, folder / "gguf_blocks.safetensors")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
