from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from edgegen.engine import providers
from edgegen.engine.providers import choose_provider, cpu_vendor, openvino_devices, openvino_options
from edgegen.engine.sessioncache import SessionCache
from edgegen.errors import ProviderError
from edgegen.pack import Pack


@pytest.fixture
def cpuinfo(tmp_path: Path):
    def write(text: str) -> Path:
        path = tmp_path / "cpuinfo"
        path.write_text(text)
        return path

    return write


def test_cpu_when_asked_for() -> None:
    choice = choose_provider("cpu")
    assert (choice.name, choice.devices) == ("cpu", ())


@pytest.mark.parametrize(
    ("text", "vendor"),
    [
        ("processor\t: 0\nvendor_id\t: GenuineIntel\n", "GenuineIntel"),
        ("vendor_id : AuthenticAMD\n", "AuthenticAMD"),
        ("processor : 0\nCPU implementer : 0x41\n", ""),
        ("", ""),
    ],
)
def test_vendor(cpuinfo, text: str, vendor: str) -> None:
    assert cpu_vendor(cpuinfo(text)) == vendor


def test_auto_takes_cpu_on_other_chips_and_says_why(cpuinfo) -> None:
    choice = choose_provider("auto", cpuinfo("vendor_id : AuthenticAMD\n"))
    assert choice.name == "cpu"
    assert "AuthenticAMD" in choice.reason
    assert choose_provider("auto", cpuinfo("CPU implementer : 0x41")).name == "cpu"
    assert choose_provider("auto", Path("/nonexistent")).name == "cpu"


def test_auto_on_intel_without_the_plugin_says_what_to_install(cpuinfo, monkeypatch) -> None:
    monkeypatch.setattr(providers, "PLUGIN_MODULE", "no_such_plugin")
    openvino_devices.cache_clear()
    try:
        choice = choose_provider("auto", cpuinfo("vendor_id : GenuineIntel\n"))
        assert choice.name == "cpu"
        assert "pip install 'edgegen[openvino]'" in choice.reason
        with pytest.raises(ProviderError, match=r"not installed; install it: pip install"):
            choose_provider("openvino")
    finally:
        openvino_devices.cache_clear()


def test_a_plugin_that_does_not_load_is_a_provider_error(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "broken_plugin.py").write_text(
        f"def get_library_path(): return {str(tmp_path / 'none.so')!r}\ndef get_ep_name(): return 'X'\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(providers, "PLUGIN_MODULE", "broken_plugin")
    openvino_devices.cache_clear()
    try:
        with pytest.raises(ProviderError, match="does not load"):
            choose_provider("openvino")
    finally:
        openvino_devices.cache_clear()


def test_unknown_provider() -> None:
    with pytest.raises(ProviderError, match="'cuda'; known are auto, cpu, openvino"):
        choose_provider("cuda")


def test_options_are_openvinos_json() -> None:
    assert json.loads(openvino_options(3)["load_config"]) == {"CPU": {"INFERENCE_NUM_THREADS": "3"}}


def test_asked_twice_openvino_gives_the_same_answer() -> None:
    """Its library may be loaded only once; a refusal must not turn into another one."""
    pytest.importorskip("onnxruntime_ep_openvino")
    answers = set()
    for _ in range(2):
        try:
            answers.add(choose_provider("openvino").name)
        except ProviderError as err:
            answers.add(str(err))
    assert len(answers) == 1


def test_openvino_for_real(tiny: Pack) -> None:
    """On Intel hardware its outputs equal the CPU provider's; elsewhere its plugin offers nothing."""
    pytest.importorskip("onnxruntime_ep_openvino")
    try:
        choice = choose_provider("openvino")
    except ProviderError as err:
        assert cpu_vendor() != "GenuineIntel", f"must work on an Intel processor: {err}"
        assert cpu_vendor() in str(err)
        assert "use provider cpu" in str(err)
        return
    rng = np.random.default_rng(0)
    feeds = {
        "sample": rng.standard_normal((1, 4, 8, 8)),
        "timestep": np.array(500.0),
        "encoder_hidden_states": rng.standard_normal((1, 77, 8)),
    }
    here, there = (SessionCache(tiny, c, 1).get("unet").run(feeds) for c in (choose_provider("cpu"), choice))
    np.testing.assert_allclose(there["out_sample"], here["out_sample"], atol=1e-3)
