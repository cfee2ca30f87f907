#!/usr/bin/env python3
"""Checks that each room of src/ includes only the rooms below it (docs/architecture.md).

Exit 0 when every include is allowed, 1 with one line per offence.
"""

import re
import sys
from pathlib import Path

# The ground floor first. A room may include itself and what stands here.
ALLOWED = {
    "base": set(),
    "tensor": {"base"},
    "text": {"base"},
    "checkpoint": {"base", "tensor"},
    "backend": {"base", "tensor"},
    "parallel": {"base", "tensor", "backend"},
    "model": {"base", "tensor", "checkpoint", "backend", "parallel"},
    "engine": {"base", "tensor", "checkpoint", "backend", "parallel", "model"},
    "plan": {"base", "model"},
    "deploy": {"base", "plan"},
    "server": {"base", "tensor", "text", "checkpoint", "backend", "parallel", "model", "engine"},
}
ALLOWED["cli"] = set(ALLOWED) | {"cli"}

INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"/]+)/', re.MULTILINE)


def offences(source: Path) -> list[str]:
    found = []
    for file in sorted(source.rglob("*")):
        if file.suffix not in {".h", ".cpp", ".cu", ".cuh"}:
            continue
        room = file.relative_to(source).parts[0]
        if room not in ALLOWED:
            found.append(f"{file}: '{room}' is not a room of the house")
            continue
        for included in INCLUDE.findall(file.read_text(encoding="utf-8")):
            if included in ALLOWED and included != room and included not in ALLOWED[room]:
                found.append(f"{file}: {room}/ may not include {included}/")
    return found


def main() -> int:
    source = Path(__file__).resolve().parent.parent / "src"
    found = offences(source)
    for line in found:
        print(line)
    if not found:
        print(f"layers: {len(ALLOWED)} rooms, every include points down")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
