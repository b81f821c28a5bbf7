"""Whether the board slows itself down, from heat or a weak supply; reads a few small files of the kernel."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .thermal import SYS

# Raspberry Pi firmware, "vcgencmd get_throttled": low bits are now, bits 16 and up since boot.
THROTTLE_BITS = {0: "under-voltage", 1: "frequency capped", 2: "throttled", 3: "soft temperature limit"}
UNDER_VOLTAGE = THROTTLE_BITS[0]
FIRMWARE = "devices/platform/soc*/*firmware/get_throttled"  # a Pi 4's soc:firmware, a Pi 5's soc@107c000000:…
HWMON_NAME, HWMON_ALARM = "rpi_volt", "in0_lcrit_alarm"
INTEL_COUNTS = "devices/system/cpu/cpu*/thermal_throttle/*_throttle_count"


@dataclass(frozen=True)
class Throttling:
    """What the firmware or the CPU says about slowing down: words, empty when all is well."""

    now: tuple[str, ...]
    since_boot: tuple[str, ...]


def read_throttling(sys: Path = SYS) -> Throttling | None:
    """A Raspberry Pi's firmware flags or its voltage alarm, else an Intel CPU's throttle counters (which
    tell of no present); None where there is none of them."""
    for path in sorted(sys.glob(FIRMWARE)):
        if (found := _firmware_flags(_text(path))) is not None:
            return found
    for name in sorted(sys.glob("class/hwmon/hwmon*/name")):
        if _text(name) == HWMON_NAME:
            low = (UNDER_VOLTAGE,) if _text(name.with_name(HWMON_ALARM)) == "1" else ()
            return Throttling(low, ())
    counts = [_text(path) for path in sys.glob(INTEL_COUNTS)]
    if not counts:
        return None
    hits = max((int(count) for count in counts if count.isdecimal()), default=0)
    return Throttling((), (f"{hits} times too hot",) if hits else ())


def _firmware_flags(text: str) -> Throttling | None:
    try:
        bits = int(text, 16)
    except ValueError:
        return None
    now = tuple(word for bit, word in THROTTLE_BITS.items() if bits >> bit & 1)
    past = tuple(word for bit, word in THROTTLE_BITS.items() if bits >> (16 + bit) & 1)
    return Throttling(now, past)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip("\0 \n")
    except OSError:
        return ""
