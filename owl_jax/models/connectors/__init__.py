"""Connectors, one file each: they turn encoded images and videos into language model tokens."""

from collections.abc import Mapping

from owl_jax.models.connectors.abstractor import AbstractorConfig
from owl_jax.models.connectors.ldp import LdpConfig
from owl_jax.models.connectors.mlp import MlpConfig
from owl_jax.models.connectors.owl2_abstractor import Owl2AbstractorConfig
from owl_jax.models.connectors.token_merge import TokenMergeConfig
from owl_jax.models.parts import ConnectorPart

CONNECTORS: Mapping[str, type[ConnectorPart]] = {
    "abstractor": AbstractorConfig,
    "ldp": LdpConfig,
    "mlp": MlpConfig,
    "owl2_abstractor": Owl2AbstractorConfig,
    "token_merge": TokenMergeConfig,
}
