"""Every setting, its type, range, default and meaning: one section per component.

Sections are handed out one by one; nobody but the top floor sees the whole. The field
descriptions are what `edgegen config explain` prints.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

SAMPLERS = (
    "euler",
    "euler_ancestral",
    "heun",
    "dpm_2",
    "dpm_2_ancestral",
    "lms",
    "dpmpp_2s_ancestral",
    "dpmpp_sde",
    "dpmpp_2m",
    "dpmpp_2m_sde",
    "ddim",
    "uni_pc",
    "lcm",
    "ipndm",
    "uni_pc_bh2",
    "dpmpp_3m_sde",
    "ddpm",
    "pndm",
    "heunpp2",
    "ipndm_v",
    "deis",
    "res_multistep",
    "res_multistep_ancestral",
    "gradient_estimation",
    "euler_cfg_pp",
    "euler_ancestral_cfg_pp",
    "dpmpp_2s_ancestral_cfg_pp",
    "dpmpp_2m_cfg_pp",
    "res_multistep_cfg_pp",
    "res_multistep_ancestral_cfg_pp",
    "gradient_estimation_cfg_pp",
    "dpmpp_sde_gpu",
    "dpmpp_2m_sde_gpu",
    "dpmpp_3m_sde_gpu",
)
SCHEDULES = ("normal", "karras", "exponential", "sgm_uniform", "simple", "ddim_uniform", "beta")
NO_STYLE = "No style"  # the choice that changes nothing
PROMPT_SYNTAXES = ("comfyui", "a1111")
SCREEN_SIZE = r"^([1-9][0-9]{2,3})x([1-9][0-9]{2,3})$"
GpioPin = Annotated[int, Field(ge=0, le=27)]


class Section(BaseModel):
    """Base of all sections: unknown keys are errors, values never change after checking."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class NodeSettings(Section):
    name: str = Field(
        "edgegen",
        min_length=1,
        max_length=64,
        pattern=r"^[A-Za-z0-9_-]+$",
        description="This device's name: its MQTT topics are edgegen/<name>/...",
    )
    data_dir: Path = Field(
        Path("~/.local/share/edgegen"),
        description="Folder for the queue, the gallery and installed packs. ~ is the user's home.",
    )
    run_dir: Path | None = Field(
        None,
        description="Folder for the control socket; empty: $RUNTIME_DIRECTORY, $XDG_RUNTIME_DIR/edgegen "
        "or data_dir/run.",
    )


class EngineSettings(Section):
    pack: str = Field("pocket", min_length=1, description="Pack used when a job names none.")
    pack_dirs: tuple[Path, ...] = Field(
        (), description="More folders to look for packs in, before data_dir/packs and the built-in ones."
    )
    provider: Literal["auto", "cpu", "openvino"] = Field(
        "auto", description="Execution provider; auto takes OpenVINO on an Intel chip when it is installed."
    )
    operators: Literal["auto", "runtime"] = Field(
        "auto",
        description="Whose operators compute INT8 graphs on the CPU provider; auto: our own for attention "
        "and gated linear units, where the processor has VNNI and is faster so; runtime: none of ours.",
    )
    memory: Literal["auto", "full", "mapped", "low", "tiled"] = Field(
        "auto",
        description="Memory mode of the CPU provider; auto takes the fastest that fits into what is free. "
        "mapped and low leave the weights in their files; low also holds one graph at a time; tiled, for "
        "decoders that need the most, also decodes in tiles, which changes the picture a little.",
    )
    threads: int = Field(0, ge=0, le=256, description="Threads for ONNX Runtime; 0: one per usable core.")
    compiled_mb: int = Field(
        4000,
        ge=0,
        le=1_000_000,
        description="Disk for graphs as OpenVINO compiled them, in data_dir/compiled, for later starts; the "
        "least recently used go first. 0: keep none.",
    )
    step_timeout_s: float = Field(
        600.0, ge=1, le=86400, description="A denoising step that takes longer is hung: the engine restarts."
    )
    idle_unload_s: float = Field(
        0.0, ge=0, le=86400, description="Free the graphs after this many idle seconds; 0: keep them loaded."
    )
    checkpoint_s: float = Field(
        30.0,
        ge=0,
        le=86400,
        description="A job's step is written to the disk at most every so many seconds, so that a killed "
        "engine or a power cut costs no more; 0: never, a job then starts anew.",
    )


class QueueSettings(Section):
    max_jobs: int = Field(1000, ge=1, le=100_000, description="Waiting jobs; one more is refused.")
    max_attempts: int = Field(3, ge=1, le=20, description="Times a job may kill the engine before it fails.")
    keep_finished: int = Field(
        1000, ge=0, le=1_000_000, description="Finished jobs remembered, for redelivery."
    )


class GallerySettings(Section):
    dir: Path | None = Field(None, description="Folder for pictures; empty: data_dir/gallery.")
    format: Literal["png", "webp", "jpeg"] = Field("png", description="File format of kept pictures.")
    max_pictures: int = Field(10_000, ge=1, le=10_000_000, description="With more, the oldest go.")
    max_mb: int = Field(2048, ge=1, le=10_000_000, description="With more megabytes, the oldest go.")
    max_days: float = Field(
        0.0, ge=0, le=36_500, description="Pictures older than this many days go; 0: kept whatever their age."
    )
    reserve_mb: int = Field(
        100, ge=0, le=10_000_000, description="Free megabytes on the disk under which new jobs are refused."
    )
    make_room: bool = Field(
        False, description="When the disk is full or its reserve reached, let the oldest pictures go first."
    )


class LimitSettings(Section):
    """Bounds on what a job may ask for."""

    prompt_chars: int = Field(1000, ge=1, le=100_000, description="Longest prompt in characters.")
    steps: int = Field(100, ge=1, le=1000, description="Most denoising steps.")
    guidance: float = Field(30.0, ge=1, le=100, description="Highest guidance scale.")
    side: int = Field(1024, ge=64, le=4096, description="Longest side of a picture in pixels.")


class GuardSettings(Section):
    """When the engine rests between two steps, for the machine's sake."""

    hot_c: float = Field(
        90.0, ge=0, le=150, description="CPU temperature in °C at which a job pauses between steps; 0: never."
    )
    cool_by_c: float = Field(
        8.0, ge=0, le=50, description="It goes on when the CPU is this many °C cooler than hot_c."
    )
    min_free_mb: int = Field(
        0, ge=0, le=1_000_000, description="Available memory in MiB under which a job pauses; 0: never."
    )
    ease_throttled: bool = Field(
        True,
        description="While a Raspberry Pi reports under-voltage or throttling, rest between two steps as "
        "long as the work before took: half the load, like half the threads.",
    )
    max_pause_s: float = Field(
        300.0, ge=0, le=86_400, description="A pause never lasts longer: a sensor may be wrong."
    )


Words = tuple[Annotated[str, Field(min_length=1, max_length=100)], ...]


class PromptSettings(Section):
    """What a public kiosk's prompts may and must say; whole words, whatever their case and accents."""

    block: Words = Field((), description="Words and phrases that refuse a prompt (code blocked_prompt).")
    block_file: Path | None = Field(
        None, description="File with more of them, one a line; lines that begin with # are comments."
    )
    allow: Words = Field((), description="With any, a prompt may hold only words from these; block wins.")
    allow_file: Path | None = Field(None, description="File with more allowed words, as block_file.")


class RateSettings(Section):
    """New jobs a minute from each kind of trigger; beyond that they are refused (code rate_limited)."""

    mqtt_per_min: float = Field(0.0, ge=0, le=100_000, description="Jobs a minute over MQTT; 0: no limit.")
    buttons_per_min: float = Field(
        0.0, ge=0, le=100_000, description="Jobs a minute by buttons; 0: no limit."
    )
    cli_per_min: float = Field(0.0, ge=0, le=100_000, description="Jobs a minute by shells; 0: no limit.")
    burst: int = Field(5, ge=1, le=100_000, description="Jobs at once after a rest, before the rate counts.")


class WorkflowSettings(Section):
    """ComfyUI workflows."""

    checkpoints: tuple[Annotated[str, Field(pattern=r"^[^=]+=[A-Za-z0-9*._-]+$")], ...] = Field(
        (),
        description="Which pack a checkpoint's name in a workflow stands for: CHECKPOINT=PACK; *=PACK for "
        "every name not known otherwise. A pack's own name, with any folder and suffix, stands for it.",
    )
    input_dir: Path | None = Field(
        None, description="Folder of the pictures that LoadImage reads; empty: data_dir/input."
    )
    lora_dir: Path | None = Field(
        None, description="Folder of LoRA files that LoraLoader reads; empty: data_dir/loras."
    )
    embedding_dir: Path | None = Field(
        None,
        description="Folder of textual inversions (.safetensors) that prompts name as embedding:NAME; empty: "
        "data_dir/embeddings.",
    )
    folder: Path | None = Field(
        None,
        description="Folder of stored workflows, NAME.json each, that jobs may name; empty: "
        "data_dir/workflows.",
    )


class MqttSettings(Section):
    enabled: bool = Field(False, description="Take jobs from an MQTT broker.")
    host: str = Field("localhost", min_length=1, max_length=255, description="Broker's host name or address.")
    port: int = Field(1883, ge=1, le=65535, description="Broker's port (8883 is usual for TLS).")
    protocol: Literal["5", "3.1.1"] = Field(
        "5", description="MQTT version; with 3.1.1 no expiry, no Response Topic, no Correlation Data."
    )
    username: str = Field("", max_length=255, description="User name at the broker; empty: anonymous.")
    password_file: Path | None = Field(
        None,
        description="File whose first line is the password; empty: systemd credential edgegen.mqtt-password.",
    )
    client_id: str = Field("", max_length=64, description="Client id; empty: edgegen-<node name>.")
    base: str = Field(
        "edgegen",
        pattern=r"^[^+#\s]+$",
        max_length=100,
        description="First part of all topics: <base>/<node>/…",
    )
    tls: bool = Field(False, description="Speak TLS to the broker.")
    ca_file: Path | None = Field(None, description="CA certificate to trust; empty: the system's.")
    cert_file: Path | None = Field(
        None, description="This device's certificate, for brokers that ask for one; PEM, with its chain."
    )
    key_file: Path | None = Field(
        None,
        description="The certificate's key; empty: systemd credential edgegen.mqtt-key, or cert_file itself.",
    )
    key_password_file: Path | None = Field(
        None,
        description="File whose first line opens an encrypted key; empty: systemd credential "
        "edgegen.mqtt-key-password.",
    )
    keepalive_s: int = Field(30, ge=5, le=3600, description="Seconds between keep-alive packets.")
    session_expiry_s: int = Field(
        86_400, ge=0, le=4_294_967_295, description="Seconds the broker keeps our session while we are away."
    )
    max_payload: int = Field(65_536, ge=256, le=10_000_000, description="Largest command in bytes.")
    image_format: Literal["jpeg", "webp", "png"] = Field("webp", description="Format of last/image.")
    image_max_bytes: int = Field(
        1_000_000,
        ge=10_000,
        le=100_000_000,
        description="Largest last/image in bytes; quality falls until it fits.",
    )
    fleet: bool = Field(
        False, description="Take a share of the jobs sent to <base>/fleet/generate, with other devices."
    )
    previews: bool = Field(
        False,
        description="Publish how a picture looks while it is made, on job/<id>/preview: a small JPEG, at "
        "most one a second, not retained.",
    )
    status_expiry_s: int = Field(
        86_400,
        ge=0,
        le=4_294_967_295,
        description="Seconds a status waits at the broker for whoever is away.",
    )
    home_assistant: bool = Field(True, description="Announce this device to Home Assistant.")
    home_assistant_prefix: str = Field(
        "homeassistant",
        pattern=r"^[^+#\s]+$",
        max_length=100,
        description="First part of the topics that Home Assistant discovers devices by.",
    )
    outbox_max: int = Field(
        10_000, ge=1, le=1_000_000, description="Results kept for an absent broker; with more, the oldest go."
    )
    outbox_days: float = Field(
        30.0, ge=0, le=3650, description="Days a result waits for the broker, then it goes; 0: for ever."
    )


class ButtonSettings(Section):
    pin: GpioPin = Field(description="BCM number of the pin; the button connects it to ground.")
    workflow: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._-]{0,63}$",
        description="Stored workflow (of workflow.folder) that a press runs; the prompt is its %prompt%.",
    )
    values: dict[str, str | int | float] = Field(
        {}, max_length=100, description="What fills in the workflow's other %placeholders%."
    )
    prompts: tuple[str, ...] = Field(
        (), description="A press takes one of these prompts; may be empty where a workflow asks for none."
    )
    order: Literal["random", "next"] = Field("random", description="How a press picks from the prompts.")
    led: GpioPin | None = Field(None, description="BCM number of this button's LED: on while its job works.")
    bounce_s: float = Field(0.05, ge=0, le=1, description="Seconds in which a second edge is the same press.")
    steps: int | None = Field(None, ge=1, description="Denoising steps; empty: the pack's default.")
    pack: str | None = Field(None, description="Pack for this button's jobs; empty: engine.pack.")

    @field_validator("values")
    @classmethod
    def _fill_in_something(cls, values: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        if values and info.data.get("workflow") is None:
            raise ValueError("they fill in a workflow's placeholders, and this button has none")
        return values

    @field_validator("prompts")
    @classmethod
    def _say_what_to_draw(cls, prompts: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if not prompts and info.data.get("workflow") is None:
            raise PydanticCustomError("missing", "a button needs prompts, or a workflow")
        return prompts


class StyleSettings(Section):
    """A style to choose in Home Assistant."""

    name: str = Field(min_length=1, max_length=40, description="What it is called; each name only once.")
    suffix: str = Field("", max_length=1000, description="Words added to the prompt, behind a comma.")
    negative_prompt: str = Field("", max_length=1000, description="What its pictures should not show.")


class DisplaySettings(Section):
    """A screen that shows the newest picture: `edgegen display`, a process of its own."""

    output: Literal["off", "framebuffer", "file"] = Field(
        "off",
        description="Where `edgegen display` draws: the framebuffer of a screen, or a PNG file for another "
        "program to show.",
    )
    device: Path = Field(Path("/dev/fb0"), description="The screen's framebuffer.")
    file: Path | None = Field(
        None,
        description="The PNG of output file, replaced as a whole with each change; empty: screen.png beside "
        "the control socket.",
    )
    file_size: str = Field(
        "1280x720", pattern=SCREEN_SIZE, description="Size in pixels of the PNG of output file."
    )
    rotate: Literal[0, 90, 180, 270] = Field(
        0, description="Degrees by which everything is turned clockwise, for a screen that hangs otherwise."
    )
    fit: Literal["contain", "cover"] = Field(
        "contain",
        description="contain shows the whole picture, cover fills the screen and cuts the rest off.",
    )
    background: str = Field(
        "#000000", pattern=r"^#[0-9A-Fa-f]{6}$", description="Colour of what no picture covers."
    )
    caption: bool = Field(True, description="Show a picture's words below it.")
    previews: bool = Field(True, description="While a picture is drawn, show how it looks, once a second.")
    waiting_text: str = Field(
        "Waiting for the next picture",
        max_length=200,
        description="Words of the waiting screen; may be empty.",
    )
    picture_s: float = Field(
        0.0,
        ge=0,
        le=604_800,
        description="Seconds a picture stays before the waiting screen comes back; 0: until the next one.",
    )
    failure_s: float = Field(
        20.0, ge=1, le=86_400, description="Seconds for which it is said that a picture failed."
    )
    blank_after_s: float = Field(
        0.0, ge=0, le=604_800, description="Seconds without a job after which the screen goes dark; 0: never."
    )
    font: Path | None = Field(
        None,
        description="TrueType or OpenType file for all words; empty: the built-in letters, and where they "
        "do not do, DejaVu or Noto if installed (Debian: fonts-dejavu-core).",
    )


class Settings(Section):
    """The whole configuration file."""

    node: NodeSettings = NodeSettings()
    engine: EngineSettings = EngineSettings()
    queue: QueueSettings = QueueSettings()
    gallery: GallerySettings = GallerySettings()
    limits: LimitSettings = LimitSettings()
    prompts: PromptSettings = PromptSettings()
    rate: RateSettings = RateSettings()
    guards: GuardSettings = GuardSettings()
    workflow: WorkflowSettings = WorkflowSettings()
    mqtt: MqttSettings = MqttSettings()
    display: DisplaySettings = DisplaySettings()
    buttons: tuple[ButtonSettings, ...] = Field((), description="One [[buttons]] table per GPIO button.")
    styles: tuple[StyleSettings, ...] = Field((), description="One [[styles]] table per style.")
