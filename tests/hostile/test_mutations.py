"""The short form of mutations.py: about a minute of it, with a seed of its own."""

import mutations
import pytest
from conftest import SANITIZED

# Beside the cases that the long form starts with.
SEED = 20


@pytest.mark.skipif(SANITIZED, reason="a sanitized program takes other time and memory")
def test_mutated_files_end_in_a_documented_code():
    assert mutations.run_files(250, SEED) == []


@pytest.mark.skipif(SANITIZED, reason="a sanitized program takes other time and memory")
def test_mutated_requests_are_answered_with_a_documented_status():
    assert mutations.run_requests(1500, SEED) == []


def test_a_code_that_is_not_documented_is_reported(tmp_path, monkeypatch, capsys):
    """The script itself: a program that ends otherwise, takes too long or too much is reported."""
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\nexit 70\n")
    program.chmod(0o755)
    monkeypatch.setattr(mutations, "BINARY", program)
    assert mutations.run_files(2, SEED) == [0, 1]
    assert "files case 1 of seed 20: ended in 70" in capsys.readouterr().out
    program.write_text("#!/bin/sh\nexec sleep 1\n")
    monkeypatch.setattr(mutations, "SECONDS", 0.1)
    assert mutations.run_files(1, SEED) == [0]
    assert "case 0 of seed 20: ended in -9, took 0." in capsys.readouterr().out
