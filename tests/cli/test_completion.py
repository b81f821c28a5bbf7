"""Tab in a real bash: what it offers for a line that was typed so far."""

import subprocess
import sys

import pytest

from edgegen.jobs.job import JobRequest
from edgegen.jobs.queue import JobQueue

ASK = """
eval "$(edgegen completion bash)"
complete -p edgegen >/dev/null || exit 9
COMP_WORDS=($LINE); COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
[ "${LINE: -1}" = " " ] && { COMP_WORDS+=(""); COMP_CWORD=$((COMP_CWORD + 1)); }
_edgegen_completion edgegen
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture
def tab(device, tmp_path):
    """Presses Tab behind a line."""
    launcher = tmp_path / "bin/edgegen"
    launcher.parent.mkdir()
    launcher.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m edgegen "$@"\n')
    launcher.chmod(0o755)

    def press(line: str) -> list[str]:
        environ = {**device.environ(), "LINE": line}
        environ |= {"EDGEGEN_CONFIG": str(device.config), "PATH": f"{launcher.parent}:{environ['PATH']}"}
        asked = subprocess.run(["bash", "-c", ASK], capture_output=True, text=True, env=environ, timeout=60)
        assert (asked.returncode, asked.stderr) == (0, "")
        return asked.stdout.split()

    return press


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("edgegen su", {"support-bundle"}),
        ("edgegen config va", {"validate"}),
        ("edgegen config set mqtt.po", {"mqtt.port"}),
        ("edgegen config set buttons.0.l", {"buttons.0.led"}),
        ("edgegen config set engine.provider ", {"auto", "cpu", "openvino"}),
        ("edgegen config set mqtt.tls ", {"true", "false"}),
        ("edgegen config explain mqt", {"mqtt"}),
        ("edgegen generate --sampler dpmpp_2m", {"dpmpp_2m", "dpmpp_2m_sde"}),
        ("edgegen queue add --schedule k", {"karras"}),
        ("edgegen generate --pack t", {"tiny"}),
        ("edgegen pack verify poc", {"pocket"}),
        ("edgegen completion ", {"bash", "zsh", "fish"}),
    ],
)
def test_tab(tab, line, offered):
    found = set(tab(line))
    assert offered <= found
    assert all(word.startswith(line.rpartition(" ")[2]) for word in found)


def test_tab_knows_the_jobs_that_wait(tab, device):
    queue = JobQueue(device.home / "data/edgegen.db")
    queue.enqueue(JobRequest("job-one", "a"))
    queue.enqueue(JobRequest("other", "a"))
    queue.close()
    assert tab("edgegen cancel jo") == ["job-one"]


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("edgegen lora show ", ["ink", "styles/wax"]),
        ("edgegen generate cat --lora sty", ["styles/wax"]),
        ("edgegen lora sh", ["show"]),
    ],
)
def test_tab_knows_the_loras(tab, device, line, offered):
    for name in ("ink.safetensors", "styles/wax.safetensors", ".hidden.safetensors", "notes.txt"):
        path = device.home / "data/loras" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert tab(line) == offered


def test_tab_with_a_broken_configuration_still_works(tab, device):
    device.config.write_text("[mqtt\n")
    assert tab("edgegen generate --pack po") == ["pocket"]


@pytest.mark.parametrize(("shell", "sign"), [("zsh", "#compdef edgegen"), ("fish", "complete --no-files")])
def test_the_other_shells(device, shell, sign):
    result = device.run("completion", shell)
    assert result.exit_code == 0
    assert sign in result.stdout
    assert "_EDGEGEN_COMPLETE" in result.stdout
