"""The shell command's manners: messages, exit codes, and nothing half-made."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from edgegen.errors import EdgegenError
from edgegen.pack import Pack
from quantize.cli import cli
from quantize.prompts import calibration_prompts, evaluation_prompts, read_prompts
from quantize.source import SourceError

ROOT = Path(__file__).parents[2]


def failure(*args: object) -> EdgegenError:
    done = CliRunner().invoke(cli, [str(a) for a in args])
    assert isinstance(done.exception, EdgegenError), done.output
    return done.exception


def test_help_teaches():
    done = CliRunner().invoke(cli, ["build", "--help"])
    assert done.exit_code == 0
    for words in ("--precision", "--keep-float", "VNNI", "pack_defaults.json", "safetensors", "--tokenizer"):
        assert words in done.output
    assert "compare" in CliRunner().invoke(cli, ["--help"]).output


def test_a_wrong_source_is_one_readable_line(tmp_path: Path):
    command = [sys.executable, "-m", "quantize", str(tmp_path / "nothing"), "-o", str(tmp_path / "pack")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=250)
    assert done.returncode == 2
    assert "does not exist; SOURCE is a diffusers folder" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_existing_pack_is_not_overwritten(checkpoint: Path, tmp_path: Path):
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "mine.txt").write_text("keep")
    assert "--force" in str(failure(checkpoint, "-o", tmp_path / "pack"))
    assert (tmp_path / "pack" / "mine.txt").read_text() == "keep"


def test_a_missing_output_folder_is_named(checkpoint: Path, tmp_path: Path):
    assert "is no folder" in str(failure(checkpoint, "-o", tmp_path / "not" / "there"))


def test_bad_options_are_explained(checkpoint: Path, tmp_path: Path):
    done = CliRunner().invoke(cli, [str(checkpoint), "-o", str(tmp_path / "p"), "--target-sqnr", "unet"])
    assert done.exit_code == 2
    assert "ROLE=DB" in done.output
    empty = tmp_path / "empty.txt"
    empty.write_text("# nothing\n")
    error = failure(checkpoint, "-o", tmp_path / "p", "--calibration-prompts", empty)
    assert "holds no prompt" in str(error)


def test_prompts_files_skip_comments_and_empty_lines(prompts: Path, tmp_path: Path):
    assert read_prompts(prompts) == ["a red apple", "blue cat on green"]
    with pytest.raises(SourceError, match="cannot be read"):
        read_prompts(tmp_path / "none.txt")


def test_calibration_and_evaluation_never_share_a_prompt():
    assert len(set(evaluation_prompts(50))) == 50
    assert not set(calibration_prompts(100)) & set(evaluation_prompts(100))


def test_packs_of_one_checkpoint_can_be_compared_only_if_they_open(packs: dict[str, Pack], tmp_path: Path):
    assert "pack.json" in str(failure("compare", packs["fp32"].folder, tmp_path))
