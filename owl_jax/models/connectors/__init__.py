"""Connectors, a file each: encoded pictures and videos as tokens of the language model."""

from collections.abc import Mapping

from owl_jax.models.connectors.abstractor import AbstractorConfig
from owl_jax.models.parts import ConnectorPart

CONNECTORS: Mapping[str, type[ConnectorPart]] = {"abstractor": AbstractorConfig}
