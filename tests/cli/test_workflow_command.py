"""`edgegen workflow` on the real tiny pack."""

import json

import numpy as np
import pytest
from PIL import Image

from edgegen.jobs.pace import remember_pace
from edgegen.jobs.queue import JobQueue

CHECKPOINT = "SD1-5/some.ckpt"


@pytest.fixture
def graph(device):
    """A form: seed and words are filled in from outside."""
    device.write_config(f'[workflow]\ncheckpoints = ["{CHECKPOINT}=tiny"]\n')
    links = {"model": ["4", 0], "positive": ["6", 0], "negative": ["7", 0], "latent_image": ["5", 0]}
    settings = {"steps": 2, "cfg": 3, "sampler_name": "euler", "scheduler": "normal", "denoise": 1}
    nodes = {
        "3": {"class_type": "KSampler", "inputs": {"seed": "%seed%", **settings, **links}},
        "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": CHECKPOINT}},
        "5": {"class_type": "EmptyLatentImage", "inputs": {"width": 32, "height": 32, "batch_size": 1}},
        "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "%what%", "clip": ["4", 1]}},
        "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "", "clip": ["4", 1]}},
        "8": {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0], "vae": ["4", 2]}},
        "9": {"class_type": "SaveImage", "inputs": {"filename_prefix": "pic", "images": ["8", 0]}},
        "10": {"class_type": "FaceDetailer", "inputs": {}},
    }
    (device.home / "w.json").write_text(json.dumps(nodes))
    return nodes


FILLED = ("--set", "%seed%=7", "--set", "%what%=a red apple")


def test_check_says_what_it_needs(device, graph):
    result = device.run("workflow", "check", "w.json", *FILLED)
    assert result.exit_code == 0, result.stderr
    assert f"checkpoint {CHECKPOINT}: pack tiny" in result.stdout
    assert "MB, in memory mode full" in result.stdout
    assert "seconds: unknown; this device has not run text_encoder of pack tiny" in result.stdout
    assert not (device.home / "data").exists(), "looking makes nothing"
    assert "not run, for no output needs them: 10" in result.stdout


def test_check_tells_every_problem_at_once_and_has_an_exit_code(device, graph):
    wrong = ("--set", "3.steps=0", "--set", "3.sampler_name=eulr", "--set", "5.width=33")
    result = device.run("workflow", "check", "w.json", *FILLED, *wrong)
    assert result.exit_code == 2
    lines = result.stderr.splitlines()
    assert [line.split(":")[1].strip() for line in lines] == [
        "node 3 (KSampler) steps",
        "node 3 (KSampler) sampler_name",
        "node 5 (EmptyLatentImage) width",
    ]
    as_json = device.run("workflow", "check", "w.json", *FILLED, *wrong, "--json")
    assert as_json.exit_code == 2
    told = json.loads(as_json.stdout)
    assert [e["type"] for e in told["node_errors"]["3"]["errors"]] == [
        "value_smaller_than_min",
        "value_not_in_list",
    ]
    assert told["error"]["type"] == "prompt_outputs_failed_validation"


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ((), "placeholder %seed% has no value"),
        ((*FILLED, "--set", "nothing"), "nothing is neither NODE.INPUT=VALUE nor %name%=TEXT"),
        ((*FILLED, "--set", "33.seed=1"), "no node '33'; did you mean 3?"),
    ],
)
def test_wrong_settings(device, graph, args, said):
    result = device.run("workflow", "check", "w.json", *args)
    assert (result.exit_code, said in result.stderr) == (2, True), result.stderr


def test_run_makes_generates_picture_half_a_level_darker_and_comfyui_can_open_it(device, graph):
    result = device.run("workflow", "run", "w.json", *FILLED, "-o", "out", "--json")
    assert result.exit_code == 0, result.stderr
    (picture,) = json.loads(result.stdout)["pictures"]
    assert picture["file"] == "out/pic_00001_.png"
    common = ("--seed", "7", "--steps", "2", "--guidance", "3", "--sampler", "euler", "--schedule", "normal")
    made = device.run("generate", "a red apple", *common, "--size", "32x32", "-o", "g.png")
    assert made.exit_code == 0, made.stderr
    with Image.open(picture["file"]) as ours, Image.open("g.png") as theirs:
        off = np.asarray(theirs, int) - np.asarray(ours, int)
        assert set(np.unique(off)) == {0, 1}  # cut off, as ComfyUI does it, and rounded
        kept = json.loads(ours.info["prompt"])
        assert json.loads(ours.info["edgegen"])["packs"] == ["tiny"]
    graph["3"]["inputs"]["seed"], graph["6"]["inputs"]["text"] = "7", "a red apple"
    assert kept == graph
    (device.home / "again.json").write_text(json.dumps(kept))
    again = device.run("workflow", "run", "again.json", "-o", "out")
    assert again.stdout.startswith("out/pic_00002_.png  node 9")
    assert device.run("workflow", "run", "again.json", "-o", "g.png").exit_code == 6


def test_from_stdin_and_files_that_are_none(device, graph):
    piped = device.run("workflow", "check", "-", *FILLED, stdin=json.dumps(graph))
    assert piped.exit_code == 0, piped.stderr
    assert "cannot read lost.json: No such file" in device.run("workflow", "check", "lost.json").stderr
    editors = device.run("workflow", "check", "-", stdin='{"nodes": [], "links": []}')
    assert (editors.exit_code, "Save (API Format)" in editors.stderr) == (2, True)


def test_queue_makes_a_job_of_it_without_a_daemon(device, graph):
    result = device.run("workflow", "run", "w.json", *FILLED, "--queue")
    assert result.exit_code == 0, result.stderr
    assert "place 1; it waits in the database" in result.stderr
    listed = json.loads(device.run("queue", "--json").stdout)["jobs"]
    assert [(job["id"], job["workflow_name"]) for job in listed] == [(result.stdout.strip(), "inline")]
    assert "workflow inline" in device.run("queue").stdout


def test_the_word_lists_hold_in_a_shell_too(device, graph):
    device.write_config(f'[workflow]\ncheckpoints = ["{CHECKPOINT}=tiny"]\n[prompts]\nblock = ["apple"]\n')
    for command in (
        ("workflow", "run", "w.json", *FILLED),
        ("workflow", "run", "w.json", *FILLED, "--queue"),
        ("generate", "a red apple"),
        ("generate", "a dog", "--negative", "apple"),
        ("queue", "add", "an Apple"),
    ):
        result = device.run(*command)
        assert (result.exit_code, "does not draw that" in result.stderr) == (2, True), result.stderr
    assert list(device.home.glob("*.png")) == []


def test_stored_workflows_are_listed(device):
    assert "no workflows in" in device.run("workflow", "list").stderr
    folder = device.home / "data/workflows"
    folder.mkdir(parents=True)
    (folder / "form.json").write_text("{}")
    assert device.run("workflow", "list").stdout == "form\n"
    assert json.loads(device.run("workflow", "list", "--json").stdout)["workflows"] == ["form"]


def test_seconds_are_known_after_a_job_or_when_measured(device, graph):
    measured = json.loads(device.run("workflow", "check", "w.json", *FILLED, "--measure", "--json").stdout)
    assert measured["seconds"] >= 0
    assert measured["seconds_note"].startswith("as measured on this device")
    queue = JobQueue(device.home / "data/edgegen.db")
    for role, size in (("text_encoder", ""), ("unet", "4x4"), ("vae_decoder", "4x4")):
        remember_pace(queue.database, {f"tiny/cpu/{role}/{size}": 10.0})
    queue.close()
    told = device.run("workflow", "check", "w.json", *FILLED)
    assert "seconds: about 70, as measured on this device" in told.stdout, "2 texts, 4 looks, 1 picture"


def test_measuring_tells_the_memory_that_it_took(device, graph):
    plain = json.loads(device.run("workflow", "check", "w.json", *FILLED, "--json").stdout)
    told = json.loads(device.run("workflow", "check", "w.json", *FILLED, "--measure", "--json").stdout)
    assert told["memory_note"] == f"{plain['memory_note']}; measured where that was more"
    assert told["peak_memory_mb"] > plain["peak_memory_mb"] > 0, "this process holds the whole test run"
