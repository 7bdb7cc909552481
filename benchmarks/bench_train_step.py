"""One training step (both networks, guidance, losses, Adam) beside the same step in PyTorch.

    python benchmarks/bench_train_step.py [--rounds 7] [--threads 2] [--json train_step.json]

The engines take turns on the same weights, images, timesteps and noises, so that a machine shared
with others slows them alike: the ratio of the medians counts, not the seconds. PyTorch runs in both
memory layouts, with the two UNet passes as one batch and its fused Adam; the faster one counts.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch_networks as twin

import diffusionad as dad
from diffusionad import _core

Batch = dict[str, np.ndarray]


def make_batch(size: int, batch: int, seed: int) -> Batch:
    """Smooth images, every second one with a rectangular anomaly."""
    rng = np.random.default_rng(seed)
    coarse = torch.from_numpy(rng.random((batch, 3, 8, 8), dtype=np.float32))
    images = torch.nn.functional.interpolate(coarse, size=(size, size), mode="bilinear").numpy()
    masks = np.zeros((batch, 1, size, size), np.float32)
    masks[::2, :, size // 4 : size // 2, size // 8 : size // 2] = 1
    noise = rng.standard_normal((2, batch, 3, size, size), dtype=np.float32)
    return {
        "images": np.where(masks > 0, 1 - images, images).astype(np.float32),
        "masks": masks,
        "labels": masks.max(axis=(1, 2, 3)).astype(np.int64),
        "t_s": rng.integers(0, 300, batch),
        "t_b": rng.integers(300, 1000, batch),
        "eps_s": noise[0],
        "eps_b": noise[1],
    }


def our_step(config: dict[str, Any], weights: dict[str, Any], data: Batch) -> Callable[[], float]:
    unet, seg = dad.UNet(**config["unet"]), dad.SegmentationNet(**config["seg"])
    unet.load_state_dict({k: v.numpy() for k, v in weights["unet"].items()})
    seg.load_state_dict({k: v.numpy() for k, v in weights["seg"].items()})
    trainer = dad.Trainer(unet, seg)
    t, noise = (data["t_s"], data["t_b"]), (data["eps_s"], data["eps_b"])

    def step() -> float:
        out = trainer.step(data["images"], data["masks"], data["labels"], t=t, noise=noise)
        return float(out["total"])

    return step


def torch_step(
    config: dict[str, Any], weights: dict[str, Any], data: Batch, layout: torch.memory_format
) -> Callable[[], float]:
    unet, seg = twin.UNet(**config["unet"]), twin.SegmentationNet(**config["seg"])
    unet.load_state_dict(weights["unet"])
    seg.load_state_dict(weights["seg"])
    for network in (unet, seg):
        network.to(memory_format=layout)
    trainer = twin.Trainer(unet, seg)
    given = {k: torch.from_numpy(v) for k, v in data.items()}
    for name in ("images", "masks", "eps_s", "eps_b"):
        given[name] = given[name].contiguous(memory_format=layout)
    t, noise = (given["t_s"], given["t_b"]), (given["eps_s"], given["eps_b"])

    def step() -> float:
        out = trainer.step(given["images"], given["masks"], given["labels"], t, noise)
        return float(out["total"].detach())

    return step


def measure(steps: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each step. Every round starts with another engine; the first is not counted."""
    names = list(steps)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for i in range(rounds + 1):
        shift = i % len(names)
        for name in names[shift:] + names[:shift]:
            start = time.perf_counter()
            steps[name]()
            if i > 0:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--base-channels", type=int, default=32)
    parser.add_argument("--seg-channels", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=_core.get_num_threads())
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    _core.set_num_threads(arguments.threads)

    config = {
        "unet": {"image_size": arguments.size, "base_channels": arguments.base_channels},
        "seg": {"base_channels": arguments.seg_channels},
    }
    weights = {
        "unet": twin.recipe_weights(twin.UNet(**config["unet"]), seed=7),
        "seg": twin.recipe_weights(twin.SegmentationNet(**config["seg"]), seed=7),
    }
    data = make_batch(arguments.size, arguments.batch, seed=0)
    steps = {
        "diffusionad": our_step(config, weights, data),
        "torch NCHW": torch_step(config, weights, data, torch.contiguous_format),
        "torch channels_last": torch_step(config, weights, data, torch.channels_last),
    }
    losses = {name: step() for name, step in steps.items()}
    if max(losses.values()) - min(losses.values()) > 1e-4 * max(losses.values()):
        raise SystemExit(f"the first step's losses differ: {losses}")

    medians = {k: statistics.median(v) for k, v in measure(steps, arguments.rounds).items()}
    best = min(seconds for name, seconds in medians.items() if name.startswith("torch"))
    result = {
        "case": f"training step, {arguments.size} px, base {arguments.base_channels}, "
        f"segmentation width {arguments.seg_channels}, batch {arguments.batch}",
        "threads": arguments.threads,
        "simd": _core.simd_level(),
        "torch": torch.__version__,
        "rounds": arguments.rounds,
        "seconds": medians,
        "speedup": best / medians["diffusionad"],
    }
    print(f"{result['case']}; {arguments.threads} threads, {result['simd']}")
    for name, seconds in medians.items():
        print(f"  {name:20s} {seconds:8.3f} s")
    print(f"  {result['speedup']:.2f} times the speed of PyTorch {torch.__version__}")
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
