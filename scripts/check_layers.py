#!/usr/bin/env python3
"""Checks that each room of src/ knows only the rooms below it (docs/architecture.md): what it
includes and what it declares of others. And that backend memory is followed in src/backend alone:
an address is a type of its own there, and only raw_address.h makes a pointer of one.

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
    "plan": {"base", "tensor", "backend", "model"},
    "deploy": {"base", "plan"},
    "server": {"base", "tensor", "text", "checkpoint", "backend", "parallel", "model", "engine"},
}
ALLOWED["cli"] = set(ALLOWED) | {"cli"}

INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"/]+)/([^"]+)"', re.MULTILINE)
NAMESPACE = re.compile(r"^\s*namespace\s+moesaic::(\w+)", re.MULTILINE)


def offences(source: Path) -> list[str]:
    found = []
    for file in sorted(source.rglob("*")):
        if file.suffix not in {".h", ".cpp", ".cu", ".cuh"}:
            continue
        room = file.relative_to(source).parts[0]
        if room not in ALLOWED:
            found.append(f"{file}: '{room}' is not a room of the house")
            continue
        text = file.read_text(encoding="utf-8")
        for included, header in INCLUDE.findall(text):
            if included in ALLOWED and included != room and included not in ALLOWED[room]:
                found.append(f"{file}: {room}/ may not include {included}/")
            if (included, header) == ("backend", "raw_address.h") and room != "backend":
                found.append(f"{file}: backend memory is followed in backend/ alone")
        for declared in NAMESPACE.findall(text):
            if declared in ALLOWED and declared != room and declared not in ALLOWED[room]:
                found.append(f"{file}: {room}/ may not declare what is {declared}/'s")
    return found


def main() -> int:
    source = Path(__file__).resolve().parent.parent / "src"
    found = offences(source)
    for line in found:
        print(line)
    if not found:
        print(f"layers: {len(ALLOWED)} rooms, every include and declaration points down")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
