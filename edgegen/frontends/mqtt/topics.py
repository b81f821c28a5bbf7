"""The topics of one device on the broker. Pure."""

from __future__ import annotations

from dataclasses import dataclass

MAX_TOPIC_BYTES = 512
_COMMANDS = ("generate", "cancel")
_LATEST = "latest_version"
_OURS = ("availability", "last", "home", _LATEST)


@dataclass(frozen=True)
class Topics:
    """Every topic of the device `node` below `base`."""

    base: str
    node: str

    @property
    def generate(self) -> str:
        return f"{self.base}/{self.node}/generate"

    @property
    def cancel(self) -> str:
        return f"{self.base}/{self.node}/cancel"

    @property
    def fleet_generate(self) -> str:
        """Where commands for whichever device is free arrive."""
        return f"{self.base}/fleet/generate"

    @property
    def fleet_share(self) -> str:
        """What a device subscribes to for its share of them: the broker gives each to one device."""
        return f"$share/edgegen/{self.fleet_generate}"

    @property
    def availability(self) -> str:
        return f"{self.base}/{self.node}/availability"

    @property
    def last_meta(self) -> str:
        return f"{self.base}/{self.node}/last/meta"

    @property
    def last_image(self) -> str:
        return f"{self.base}/{self.node}/last/image"

    @property
    def home_state(self) -> str:
        return f"{self.base}/{self.node}/home/state"

    @property
    def latest_version(self) -> str:
        """Where whoever runs the fleet says, retained, which version is the newest; one topic for all."""
        return f"{self.base}/fleet/{_LATEST}"

    def home_button(self, pin: int) -> str:
        """Presses of the button at a BCM pin, not retained."""
        return f"{self.base}/{self.node}/home/button/{pin}"

    @property
    def home_update(self) -> str:
        return f"{self.base}/{self.node}/home/update"

    def home_command(self, key: str) -> str:
        """Where Home Assistant says what one of its entities shall do."""
        return f"{self.base}/{self.node}/home/{key}/set"

    def status(self, job_id: str) -> str:
        return f"{self.base}/{self.node}/job/{job_id}/status"

    def preview(self, job_id: str) -> str:
        return f"{self.base}/{self.node}/job/{job_id}/preview"

    def response_problem(self, topic: str) -> str | None:
        """What is wrong with a Response Topic that a sender asks for; None when it is allowed.

        Answers go below `<base>/` only, and never to a topic that devices read commands from or
        announce themselves on: an answer must not start a job or speak for a device.
        """
        levels = topic.split("/")
        if len(topic.encode("utf-8", "replace")) > MAX_TOPIC_BYTES:
            return f"is longer than {MAX_TOPIC_BYTES} bytes"
        if any(char in topic for char in "+#\0"):
            return "holds a wildcard or NUL"
        if not topic.startswith(f"{self.base}/"):
            return f"must be below {self.base}/"
        if levels[-1] in _COMMANDS or any(level in _OURS for level in levels):
            return "must not be a command, availability, last/..., home/... or latest_version topic"
        return None
