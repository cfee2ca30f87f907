#!/usr/bin/env python3
"""Makes src/tensor/code_books.cpp: the code books of GGUF's IQ types, from the `gguf` package.

    python3 -m venv venv && venv/bin/pip install gguf
    venv/bin/python scripts/make_code_books.py > src/tensor/code_books.cpp

An entry stands for four or eight values. The package has each value as an index into the few that
occur; here an entry is one number, the first value's index lowest.
"""

import numpy as np
from gguf import quants

HEAD = """// Made by scripts/make_code_books.py.

#include "tensor/code_books.h"

namespace moesaic::tensor {
"""
BOOKS = (
    ("kIq2Xxs", quants.IQ2_XXS, 2),
    ("kIq2Xs", quants.IQ2_XS, 2),
    ("kIq2S", quants.IQ2_S, 2),
    ("kIq3Xxs", quants.IQ3_XXS, 3),
    ("kIq3S", quants.IQ3_S, 3),
    ("kIq1", quants.IQ1_S, 2),
)
NUMBERS_A_LINE = 12


def entries(kind, bits):
    """The numbers of a book's entries."""
    kind.init_grid()
    values = np.asarray(kind.grid).reshape(kind.grid_shape).astype(int)
    order = {value: index for index, value in enumerate(kind.grid_map)}
    for row in values:
        yield sum(order[value] << bits * place for place, value in enumerate(row))


def main():
    print(HEAD)
    for name, kind, bits in BOOKS:
        numbers = [f"0x{number:04x}," for number in entries(kind, bits)]
        print("// clang-format off")
        print(f"const std::array<uint16_t, {len(numbers)}> {name} = {{")
        for first in range(0, len(numbers), NUMBERS_A_LINE):
            print("    " + " ".join(numbers[first : first + NUMBERS_A_LINE]))
        print("};\n// clang-format on\n")
    print("}  // namespace moesaic::tensor")


if __name__ == "__main__":
    main()
