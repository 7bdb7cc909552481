"""Weights that come with the package, to start trainings from.

They have seen nothing but procedural surfaces and synthetic defects, so they know no part and no
dataset (benchmarks/pretrain_gpu.py made them, benchmarks/QUALITY.md says what they are worth). Half
precision, to be small. They are of the preset "compact" and serve every model whose networks have
the same parameters, at other image sizes too if attention is at the same levels.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from . import checkpoints
from .models import SegmentationNet, UNet

log = logging.getLogger(__name__)

FILE = Path(__file__).parent / "data" / "pretrained" / "compact.safetensors"


def load_into(networks: Mapping[str, UNet | SegmentationNet]) -> bool:
    """Give both networks these weights; False, a warning and nothing done where they do not fit."""
    shapes = {
        f"{name}.{parameter}": tuple(values.shape)
        for name, network in networks.items()
        for parameter, values in network.parameter_views().items()
    }
    if checkpoints.read_shapes(FILE) != shapes:
        log.warning(
            "pretrained: the weights that come with the package are of other networks, "
            "so these start from random ones; pretrained=False asks for that"
        )
        return False
    found = checkpoints.load_model(FILE)
    for name, network in networks.items():
        network.load_state_dict(getattr(found, name))
    return True
