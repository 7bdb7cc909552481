r"""Makes the weights that come with the package: pretrain.py's images and losses, with PyTorch.

    python benchmarks/pretrain_gpu.py FIRST.safetensors --seconds 490 --strokes-only
    python benchmarks/pretrain_gpu.py diffusionad/data/pretrained/compact.safetensors \
        --seconds 205 --start FIRST.safetensors --rate 6e-4

What pretrain.py does in hours of a CPU, on a GPU within a given time: 128 images of 128 px a step
and, every fourth step, 32 of 256 px, made by worker processes; Adam with one rate that rises over
some steps and falls to zero with the time. Averaged weights (0.999) are written, in half precision.
No two runs are alike, since their steps depend on the machine.
"""

from __future__ import annotations

import argparse
import itertools
import math
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from pretrain import BATCH, CLEAN_SHARE, DECAY, Scenes, write
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from torch_networks import SegmentationNet, UNet, focal_loss, guided_repair, noise_loss

import diffusionad as dad

SIDES = (128, 128, 128, 256)  # of the images, step by step
IMAGES = {128: 128, 256: 32}  # in a step
POOLS = {128: 20_000, 256: 5_000}
WARMUP = 200
TELL_EVERY = 200


class Steps(IterableDataset[tuple[Tensor, Tensor, Tensor, Tensor]]):
    """Good images, the same with defects, masks (all as bytes) and labels, without end."""

    def __init__(self, scenes: dict[int, Scenes]) -> None:
        super().__init__()
        self.scenes = scenes

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
        worker = get_worker_info()
        first, stride = (worker.id, worker.num_workers) if worker else (0, 1)
        for step in itertools.count(first, stride):
            side = SIDES[step % len(SIDES)]
            count = IMAGES[side] // BATCH
            parts = [self.scenes[side].batch(step * max(IMAGES.values()) + i) for i in range(count)]
            good, images, masks, labels = (
                np.concatenate(part) for part in zip(*parts, strict=True)
            )
            bytes_of = (np.rint(255 * part).astype(np.uint8) for part in (good, images, masks))
            yield *map(torch.from_numpy, bytes_of), torch.from_numpy(labels.reshape(-1))


class Networks(nn.Module):
    """Both networks of the preset, and the losses of a step."""

    def __init__(self, config: dad.ModelConfig) -> None:
        super().__init__()
        names = ("image_size", "base_channels", "channel_mults", "num_res_blocks", "num_heads")
        names += ("attention_resolutions", "patch_size", "preconditioned")
        self.unet = UNet(**{name: getattr(config, name) for name in names})
        self.seg = SegmentationNet(base_channels=config.seg_channels)

    def forward(
        self, images: Tensor, masks: Tensor, noised: Tensor, normal: Tensor
    ) -> dict[str, Tensor]:
        """Losses of the preset; `noised` are repaired, `normal` says which count for the noise."""
        count, device = len(images), images.device
        t = [torch.randint(*span, (count,), device=device) for span in ((0, 300), (300, 1000))]
        noise = [torch.randn_like(images) for _ in t]
        eps, repaired = guided_repair(self.unet, noised, t, noise, 1.0)
        p = self.seg(torch.cat([images, repaired], dim=1))
        bce = F.binary_cross_entropy(p, masks, reduction="none")
        return {
            "noise": noise_loss(eps, noise, normal),
            "focal": focal_loss(bce),
            "bce": bce.mean(),
            "dice": 1 - (2 * (p * masks).sum() + 1) / (p.sum() + masks.sum() + 1),
        }


def pretrain(
    out: Path,
    seconds: float,
    device: str,
    workers: int,
    start: Path | None = None,
    rate: float = 1e-3,
    strokes_only: bool = False,
) -> None:
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    torch.manual_seed(0)
    model = dad.DiffusionAD("compact", pretrained=False)
    weights = model.train_config.losses
    networks, images_seen, steps_before = Networks(model.config), 0, 0
    if start is not None:
        before = dad.load(start)
        images_seen, steps_before = (
            before.provenance[name] for name in ("train_images", "train_steps")
        )
        for name, network in before.networks.items():
            state = {key: torch.from_numpy(value) for key, value in network.state_dict().items()}
            getattr(networks, name).load_state_dict(state, strict=False)
    networks.to(device, memory_format=torch.channels_last)
    networks.unet.alphas_cumprod = networks.unet.alphas_cumprod.to(device)
    averages = {key: value.clone() for key, value in networks.state_dict().items()}
    adam = torch.optim.Adam(networks.parameters())
    scenes = {side: Scenes(side, pool, strokes_only) for side, pool in POOLS.items()}
    steps = DataLoader(Steps(scenes), batch_size=None, num_workers=workers, pin_memory=True)
    rng, begun = np.random.default_rng(3), time.monotonic()
    for step, batch in enumerate(steps):
        spent = (time.monotonic() - begun) / seconds
        if spent >= 1:
            break
        good, images, masks, labels = (part.to(device) for part in batch)
        good, images, masks = (
            part.float().div_(255).to(memory_format=torch.channels_last)
            for part in (good, images, masks)
        )
        clean = rng.random() < CLEAN_SHARE
        normal = torch.ones(len(images), device=device) if clean else (labels == 0).float()
        losses = networks(images, masks, good if clean else images, normal)
        for group in adam.param_groups:
            rise, fall = min(1, (step + 1) / WARMUP), 0.5 * (1 + math.cos(math.pi * spent))
            group["lr"] = rate * rise * fall
        adam.zero_grad()
        sum(weights[name] * loss for name, loss in losses.items()).backward()
        adam.step()
        decay, images_seen = min(DECAY, (step + 1) / (step + 10)), images_seen + len(images)
        with torch.no_grad():
            for key, value in networks.state_dict().items():
                if value.is_floating_point():
                    averages[key].lerp_(value, 1 - decay)
                else:
                    averages[key] = value
        if step % TELL_EVERY == 0:
            told = ", ".join(f"{name} {loss.item():.4f}" for name, loss in losses.items())
            print(f"{step:6d} steps, {images_seen} images: {told}", flush=True)
    found = {
        name: {
            key.removeprefix(f"{name}."): value.cpu().contiguous().numpy()
            for key, value in averages.items()
            if key.startswith(f"{name}.")
        }
        for name in model.networks
    }
    write(out, model, steps_before + step, images_seen, found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", type=Path, help="the model file")
    parser.add_argument("--seconds", type=float, default=490)
    parser.add_argument("--start", type=Path, help="a model file to go on from")
    parser.add_argument("--rate", type=float, default=1e-3, help="Adam's")
    parser.add_argument("--strokes-only", action="store_true", help="no soft regions")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--workers", type=int, default=15)
    args = parser.parse_args()
    pretrain(**vars(args))


if __name__ == "__main__":
    main()
