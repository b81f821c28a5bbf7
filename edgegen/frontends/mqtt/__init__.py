"""Jobs and pictures over MQTT."""

from .frontend import MqttFrontend
from .home import Surroundings

__all__ = ["MqttFrontend", "Surroundings"]
