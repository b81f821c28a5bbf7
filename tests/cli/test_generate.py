"""`edgegen generate` on the real tiny pack, through real ONNX Runtime sessions."""

import json
import os
import pty
import signal
import subprocess

import numpy as np
import pytest
from PIL import Image

from edgegen.cli.generate import output_paths, slug
from edgegen.cli.progress import bar_line
from edgegen.engine.metadata import read_metadata
from edgegen.errors import BadRequest, ProviderError, StorageError, UnknownPack
from tests.loras import write_tensors
from tests.support import wait_for

QUICK = ("--steps", "2", "--size", "32x32")


def test_a_picture_with_its_settings_inside(device):
    result = device.run("generate", "a red apple", "--seed", "7", *QUICK, "-o", "apple.png")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith("apple.png  seed 7  ")
    assert result.stderr == ""
    with Image.open(device.home / "apple.png") as image:
        assert image.size == (32, 32)
    told = read_metadata(device.home / "apple.png")
    assert (told["prompt"], told["seed"], told["steps"], told["pack"]) == ("a red apple", 7, 2, "tiny")


def test_same_seed_same_pixels_whatever_the_way_in(device):
    device.run("generate", "a red apple", "--seed", "7", *QUICK, "-o", "one.png")
    device.run(
        "generate", "-", "--seed", "7", *QUICK, "-o", "two.png", "--pack", "tiny", stdin="a red apple\n"
    )
    with Image.open("one.png") as one, Image.open("two.png") as two:
        assert one.tobytes() == two.tobytes()


@pytest.mark.parametrize(("suffix", "format"), [("webp", "WEBP"), ("jpg", "JPEG"), ("PNG", "PNG")])
def test_the_name_chooses_the_format(device, suffix, format):
    assert device.run("generate", "a cat", *QUICK, "-o", f"cat.{suffix}").exit_code == 0
    with Image.open(f"cat.{suffix}") as image:
        assert image.format == format


def test_count_json_and_a_name_from_the_prompt(device):
    result = device.run("generate", "Ein Käfer, bitte!", *QUICK, "--seed", "5", "--count", "2", "--json")
    pictures = json.loads(result.stdout)["pictures"]
    assert [p["file"] for p in pictures] == ["ein-käfer-bitte-1.png", "ein-käfer-bitte-2.png"]
    assert [p["seed"] for p in pictures] == [5, 6]
    assert all((device.home / p["file"]).is_file() and p["seconds"] > 0 for p in pictures)


def test_into_a_folder(device):
    (device.home / "out").mkdir()
    device.run("generate", "a cat", *QUICK, "-o", "out")
    assert (device.home / "out/a-cat.png").is_file()


def test_nothing_is_overwritten_without_force(device):
    device.run("generate", "a cat", *QUICK, "-o", "cat.png")
    before = (device.home / "cat.png").read_bytes()
    result = device.run("generate", "a dog", *QUICK, "-o", "cat.png")
    assert result.exit_code == StorageError.exit_code
    assert "--force" in result.stderr
    assert (device.home / "cat.png").read_bytes() == before
    assert device.run("generate", "a dog", *QUICK, "-o", "cat.png", "--force").exit_code == 0
    assert read_metadata(device.home / "cat.png")["prompt"] == "a dog"


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["--pack", "tinny"], UnknownPack.exit_code, ["Did you mean 'tiny'?"]),
        (["--pack", "./nowhere"], UnknownPack.exit_code, ["nowhere", "pack.json"]),
        (["--provider", "cuda"], ProviderError.exit_code, ["cuda", "openvino"]),
        (["-o", "apple.gif"], BadRequest.exit_code, ["apple.gif", ".webp"]),
        (["-o", "nowhere/apple.png"], StorageError.exit_code, ["nowhere", "mkdir -p"]),
        (["--threads", "-1"], 2, ["0<=x<=256"]),
        (["--seed", "-1"], BadRequest.exit_code, ["seed: -1", "0 to"]),
        (["--guidance", "nan"], BadRequest.exit_code, ["guidance: "]),
    ],
)
def test_what_is_wrong_and_what_would_be_right(device, args, code, words):
    result = device.run("generate", "a red apple", *args)
    assert result.exit_code == code
    assert all(word in result.stderr for word in words), result.stderr
    assert result.stdout == ""
    assert sorted(p.name for p in device.home.iterdir()) == ["config.toml"]


def test_all_problems_of_a_request_at_once_as_the_pack_has_them(device):
    result = device.run("generate", " ", "--size", "300x9000", "--steps", "0", "--sampler", "eular")
    lines = result.stderr.splitlines()
    assert [line.split(":")[1].strip() for line in lines] == ["height", "prompt", "sampler", "steps", "width"]
    assert lines[4] == "edgegen: width: 300 is not allowed: 32 to 128 in steps of 16 with pack tiny"
    assert "did you mean euler?" in lines[2]


def test_a_damaged_pack_makes_no_picture(device, own_pack):
    weights = own_pack / "unet/weights.bin"
    weights.write_bytes(bytes(len(weights.read_bytes())))
    result = device.run("generate", "a cat", *QUICK, "-o", "cat.png")
    assert result.exit_code == 3
    assert "unet/weights.bin" in result.stderr
    assert not (device.home / "cat.png").exists()


@pytest.mark.parametrize(
    ("prompt", "name"),
    [
        ("A red apple, please!", "a-red-apple-please"),
        ("../../etc/passwd", "etc-passwd"),
        ("!!!", "picture"),
        ("赤いリンゴ", "赤いリンゴ"),
        ("x" * 500, "x" * 48),
    ],
)
def test_slug(prompt, name):
    assert slug(prompt) == name
    assert len(slug("漢" * 500).encode()) <= 200


def test_a_dangling_link_is_not_written_through(device):
    (device.home / "link.png").symlink_to("/nowhere/else.png")
    with pytest.raises(StorageError):
        output_paths(device.home / "link.png", "x", 1, force=False)


def test_bar_line():
    assert bar_line("", 0, 4, 0.0) == "─" * 24 + "  step 0 of 4, 0.0 s"
    assert (
        bar_line("2 of 3", 2, 4, 3.0) == "2 of 3  " + "━" * 12 + "─" * 12 + "  step 2 of 4, 3.0 s, 3 s left"
    )


def test_a_terminal_gets_a_bar_that_goes_away_and_stdout_stays_clean(device):
    ours, theirs = pty.openpty()
    result = subprocess.run(
        device.command("generate", "a cat", *QUICK, "-o", "cat.png"), stdout=subprocess.PIPE, stderr=theirs,
        cwd=device.home, env={**device.environ(), "TERM": "xterm"}, timeout=240, check=True,
    )  # fmt: skip
    os.close(theirs)
    shown = os.read(ours, 1 << 16).decode()
    os.close(ours)
    assert result.stdout.startswith(b"cat.png  seed ")
    assert "step 2 of 2" in shown
    assert shown.endswith("\r\x1b[K")


def test_interrupt_leaves_nothing_and_says_nothing(device):
    process = subprocess.Popen(
        device.command("generate", "a cat", "--steps", "90", "--count", "1000", "-o", "cat.png"),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=device.home, env=device.environ(),
    )  # fmt: skip
    wait_for(lambda: (device.home / "cat-1.png").exists() or process.poll() is not None, "a picture", 240)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert (process.returncode, errors.strip()) == (130, "")
    assert all(path.suffix in (".png", ".toml") for path in device.home.iterdir())


def test_a_picture_is_made_again_from_itself(device):
    device.run("generate", "a red apple", "--seed", "7", *QUICK, "-o", "one.png")
    again = device.run("generate", "--from", "one.png", "-o", "two.png")
    assert again.exit_code == 0, again.stderr
    with Image.open("one.png") as one, Image.open("two.png") as two:
        assert one.tobytes() == two.tobytes()


def test_what_is_given_beside_a_picture_wins(device):
    device.run("generate", "a red apple", "--seed", "7", *QUICK, "-o", "one.png")
    result = device.run("generate", "a pear", "--from", "one.png", "--seed", "8", "-o", "two.png")
    assert result.exit_code == 0, result.stderr
    told = read_metadata(device.home / "two.png")
    assert (told["prompt"], told["seed"], told["steps"], told["width"]) == ("a pear", 8, 2, 32)


def test_neither_words_nor_picture(device):
    result = device.run("generate")
    assert result.exit_code == BadRequest.exit_code
    assert "give a prompt" in result.stderr


def test_preview_keeps_the_newest_look_in_a_file(device):
    made = device.run("generate", "a red apple", "--steps", "2", "--preview", "now.jpg", "-o", "a.png")
    assert made.exit_code == 0, made.stderr
    with Image.open("now.jpg") as now, Image.open("a.png") as picture:
        assert (now.format, now.size) == ("JPEG", picture.size)
    refused = device.run("generate", "a red apple", "--preview", "now.gif")
    assert (refused.exit_code, "must end in" in refused.stderr) == (6, True)


def test_a_pack_that_cannot_be_previewed_says_so(device, own_pack):
    told = json.loads((own_pack / "pack.json").read_text())
    (own_pack / "pack.json").write_text(json.dumps({**told, "family": "other"}))
    refused = device.run("generate", "a red apple", "--preview", "now.jpg")
    assert (refused.exit_code, "does not say how its latents look" in refused.stderr) == (2, True)


def test_a_lora_needs_a_pack_that_takes_one(device):
    path = device.home / "ink.safetensors"
    change = {"lora_unet_conv_in.lora_down.weight": (1, 4, 3, 3), "lora_unet_conv_in.lora_up.weight": (4, 1)}
    write_tensors(path, {name: np.ones(shape, np.float32) for name, shape in change.items()})
    result = device.run("generate", "a cat", *QUICK, "--lora", str(path))
    assert result.exit_code == 2
    assert "pack tiny takes no LoRA" in result.stderr
    for text, says in {"ink.safetensors:2x": "2x is no strength", "gone:1": "no LoRA of that name"}.items():
        result = device.run("generate", "a cat", *QUICK, "--lora", text)
        assert result.exit_code == 2
        assert says in result.stderr
