"""LoRA: small changes to a pack's weights, merged when a graph loads."""
