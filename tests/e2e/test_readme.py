"""README and docs: links lead somewhere, and what a command is shown to print it prints."""

import re
import shlex
import subprocess

import pytest
from conftest import BINARY, ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page):
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.S)
    links = [link for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text) if "://" not in link]
    missing = [link for link in links if not (page.parent / link).exists()]
    assert not missing, f"{page.name} links to {missing}"


def test_the_readmes_example_prints_what_it_shows():
    """Every `$ command` of README, with the beginning of its output below it."""
    blocks = re.findall(
        r"```\n\$ build/release/moesaic (.*?)\n(.*?)```", (ROOT / "README.md").read_text(), re.S
    )
    assert blocks, "README shows no command with its output"
    for command, shown in blocks:
        done = subprocess.run(
            [BINARY, *shlex.split(command)], capture_output=True, text=True, cwd=ROOT, timeout=60
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(shown), (
            f"README is out of date: moesaic {command}\n" + done.stdout
        )
