"""Jobs and pictures over MQTT."""

from .frontend import MqttFrontend

__all__ = ["MqttFrontend"]
