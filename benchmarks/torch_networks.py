"""Both networks and one training step in PyTorch, to measure and to check against.

Written from the paper and from the published parameter names, so that weights load by name. To
compare it with golden values (a folder of files as in tests/golden, with the weights in them):

    python benchmarks/torch_networks.py GOLDEN
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import inputs
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

DEFAULT_MULTS = {
    512: (0.5, 1, 1, 2, 2, 4, 4),
    256: (1, 1, 2, 2, 4, 4),
    128: (1, 1, 2, 3, 4),
    64: (1, 2, 3, 4),
    32: (1, 2, 3, 4),
}


def alphas_cumprod() -> Tensor:
    """Of the linear schedule: float64 (1000,)."""
    return torch.from_numpy(np.cumprod(1 - np.linspace(0.0001, 0.02, 1000)))


def to_depth(x: Tensor, p: int) -> Tensor:
    """Each p by p pixels as one of p² C channels, ordered by row, column, channel."""
    if p == 1:
        return x
    n, c, h, w = x.shape
    split = x.reshape(n, c, h // p, p, w // p, p).permute(0, 3, 5, 1, 2, 4)
    return split.reshape(n, p * p * c, h // p, w // p)


def to_space(x: Tensor, p: int) -> Tensor:
    """What to_depth() was given."""
    if p == 1:
        return x
    n, c, h, w = x.shape
    split = x.reshape(n, p, p, c // (p * p), h, w).permute(0, 3, 4, 1, 5, 2)
    return split.reshape(n, c // (p * p), h * p, w * p)


class TimestepEncoding(nn.Module):
    """[sin, cos] of t at `width` / 2 frequencies from 1 down to 1/10000."""

    def __init__(self, width: int) -> None:
        super().__init__()
        half = width // 2
        steps = torch.arange(half, device="cpu")  # has values also while weights are "meta"
        frequencies = torch.exp(-math.log(10000) / half * steps)
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, t: Tensor) -> Tensor:
        angle = t[:, None].to(self.frequencies) * self.frequencies
        return torch.cat([angle.sin(), angle.cos()], dim=1)


class ResBlock(nn.Module):
    """GN, SiLU, ["up" or "down"], conv, + time, GN, SiLU, conv, + skip."""

    def __init__(
        self, channels: int, time_width: int, out_channels: int, resample: str | None = None
    ) -> None:
        super().__init__()
        self.resample = resample
        self.in_layers = nn.Sequential(
            nn.GroupNorm(32, channels), nn.SiLU(), nn.Conv2d(channels, out_channels, 3, padding=1)
        )
        self.embed_layers = nn.Sequential(nn.SiLU(), nn.Linear(time_width, out_channels))
        self.out_layers = nn.Sequential(
            nn.GroupNorm(32, out_channels),
            nn.SiLU(),
            nn.Identity(),  # dropout, always 0
            nn.Conv2d(out_channels, out_channels, 3, padding=1),
        )
        nn.init.zeros_(self.out_layers[3].weight)
        nn.init.zeros_(self.out_layers[3].bias)
        self.skip_connection: nn.Module = (
            nn.Identity() if channels == out_channels else nn.Conv2d(channels, out_channels, 1)
        )

    def resized(self, x: Tensor) -> Tensor:
        if self.resample == "up":
            return F.interpolate(x, scale_factor=2, mode="nearest")
        return F.avg_pool2d(x, 2) if self.resample == "down" else x

    def forward(self, x: Tensor, temb: Tensor) -> Tensor:
        norm, activation, conv = self.in_layers
        h = conv(self.resized(activation(norm(x))))
        h = self.out_layers(h + self.embed_layers(temb)[:, :, None, None])
        return h + self.skip_connection(self.resized(x))


class Attention(nn.Module):
    """Self-attention over the map; channels of qkv are grouped by head as [q, k, v]."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.GroupNorm(32, channels)
        self.to_qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = nn.Conv1d(channels, channels, 1)
        nn.init.zeros_(self.proj_out.weight)
        nn.init.zeros_(self.proj_out.bias)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        qkv = self.to_qkv(self.norm(x).reshape(n, c, h * w))
        q, k, v = qkv.reshape(n, self.heads, 3, c // self.heads, h * w).transpose(3, 4).unbind(2)
        y = F.scaled_dot_product_attention(q, k, v).transpose(2, 3).reshape(n, c, h * w)
        return x + self.proj_out(y).reshape(n, c, h, w)


class Downsample(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.downsample = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.downsample(x)


class Upsample(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))


class Block(nn.ModuleList):
    """Modules in a row; the residual blocks among them are given the time embedding."""

    def forward(self, x: Tensor, temb: Tensor) -> Tensor:
        for module in self:
            x = module(x, temb) if isinstance(module, ResBlock) else module(x)
        return x


class UNet(nn.Module):
    """The reconstruction network: eps of x_t and t. Arguments as those of diffusionad.UNet."""

    def __init__(
        self,
        image_size: int = 256,
        base_channels: int = 128,
        channel_mults: Sequence[float] | None = None,
        num_res_blocks: int = 2,
        num_heads: int = 4,
        num_head_channels: int = -1,
        attention_resolutions: Sequence[int] = (32, 16, 8),
        resblock_updown: bool = True,
        in_channels: int = 3,
        patch_size: int = 1,
        preconditioned: bool = False,
    ) -> None:
        super().__init__()
        self.patch_size, self.preconditioned = patch_size, preconditioned
        self.alphas_cumprod = alphas_cumprod()
        in_channels *= patch_size**2
        mults = DEFAULT_MULTS[image_size] if channel_mults is None else channel_mults
        widths = [round(base_channels * m) for m in mults]
        side = image_size // patch_size
        attention_strides = {max(1, side // r) for r in attention_resolutions if r <= image_size}
        time_width = 4 * base_channels
        self.time_embedding = nn.Sequential(
            TimestepEncoding(base_channels),
            nn.Linear(base_channels, time_width),
            nn.SiLU(),
            nn.Linear(time_width, time_width),
        )

        def attention(channels: int) -> Attention:
            heads = num_heads if num_head_channels == -1 else channels // num_head_channels
            return Attention(channels, heads)

        def resampled(channels: int, way: str) -> nn.Module:
            if resblock_updown:
                return ResBlock(channels, time_width, channels, way)
            return Downsample(channels) if way == "down" else Upsample(channels)

        channels = widths[0]
        self.down = nn.ModuleList([Block([nn.Conv2d(in_channels, channels, 3, padding=1)])])
        skips = [channels]
        for level, width in enumerate(widths):
            for _ in range(num_res_blocks):
                block = Block([ResBlock(channels, time_width, width)])
                channels = width
                if 2**level in attention_strides:
                    block.append(attention(channels))
                self.down.append(block)
                skips.append(channels)
            if level + 1 < len(widths):
                self.down.append(Block([resampled(channels, "down")]))
                skips.append(channels)

        self.middle = Block(
            [
                ResBlock(channels, time_width, channels),
                attention(channels),
                ResBlock(channels, time_width, channels),
            ]
        )

        self.up = nn.ModuleList()
        for level, width in reversed(list(enumerate(widths))):
            for i in range(num_res_blocks + 1):
                block = Block([ResBlock(channels + skips.pop(), time_width, width)])
                channels = width
                if 2**level in attention_strides:
                    block.append(attention(channels))
                if level > 0 and i == num_res_blocks:
                    block.append(resampled(channels, "up"))
                self.up.append(block)

        self.out = nn.Sequential(
            nn.GroupNorm(32, channels), nn.SiLU(), nn.Conv2d(channels, in_channels, 3, padding=1)
        )
        nn.init.zeros_(self.out[2].weight)
        nn.init.zeros_(self.out[2].bias)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        output = to_space(self.layers(to_depth(x, self.patch_size), t), self.patch_size)
        return self.noise(x, output, t) if self.preconditioned else output

    def noise(self, x: Tensor, output: Tensor, t: Tensor) -> Tensor:
        """eps from x_t and the layers' output (Karras et al. 2022), as diffusionad.UNet has it."""
        a = self.alphas_cumprod[t][:, None, None, None]
        share = (1 / 16) / ((1 - a) / a + 1 / 16)
        direct, centre = ((1 - share) / (1 - a).sqrt()).to(x), (a.sqrt() / 2).to(x)
        return direct * (x - centre) - share.sqrt().to(x) * output

    def layers(self, x: Tensor, t: Tensor) -> Tensor:
        temb = self.time_embedding(t)
        skips = []
        for block in self.down:
            x = block(x, temb)
            skips.append(x)
        x = self.middle(x, temb)
        for block in self.up:
            x = block(torch.cat([x, skips.pop()], dim=1), temb)
        return self.out(x)


def conv_bn_relu(channels: int, out_channels: int) -> list[nn.Module]:
    return [
        nn.Conv2d(channels, out_channels, 3, padding=1),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    ]


class SegmentationNet(nn.Module):
    """The segmentation network: the anomaly map of an image beside its reconstruction."""

    def __init__(
        self,
        in_channels: int = 6,
        out_channels: int = 1,
        base_channels: int = 64,
        patch_size: int = 1,
    ) -> None:
        super().__init__()
        self.patch_size = patch_size
        in_channels, out_channels = (c * patch_size**2 for c in (in_channels, out_channels))
        widths = [base_channels * m for m in (1, 2, 4, 8, 8, 8)]
        self.encoder_segment = nn.ModuleDict()
        channels = in_channels
        for i, width in enumerate(widths):
            layers = [*conv_bn_relu(channels, width), *conv_bn_relu(width, width)]
            self.encoder_segment[f"block{i + 1}"] = nn.Sequential(*layers)
            channels = width
        self.decoder_segment = nn.ModuleDict()
        for suffix, width, skip in zip(
            ("_b", "1", "2", "3", "4"),
            [base_channels * m for m in (8, 4, 2, 1, 1)],
            reversed(widths[:-1]),
            strict=True,
        ):
            self.decoder_segment[f"up{suffix}"] = nn.Sequential(
                nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True),
                *conv_bn_relu(channels, width),
            )
            self.decoder_segment[f"db{suffix}"] = nn.Sequential(
                *conv_bn_relu(width + skip, width), *conv_bn_relu(width, width)
            )
            channels = width
        self.decoder_segment["fin_out"] = nn.Sequential(
            nn.Conv2d(channels, out_channels, 3, padding=1)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = to_depth(x, self.patch_size)
        maps = []
        for i, block in enumerate(self.encoder_segment.values()):
            x = block(x if i == 0 else F.max_pool2d(x, 2))
            maps.append(x)
        x = maps.pop()
        for suffix in ("_b", "1", "2", "3", "4"):
            x = torch.cat([self.decoder_segment[f"up{suffix}"](x), maps.pop()], dim=1)
            x = self.decoder_segment[f"db{suffix}"](x)
        return torch.sigmoid(to_space(self.decoder_segment["fin_out"](x), self.patch_size))


def coefficients(alphas: Tensor, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """sqrt(alphas_cumprod) and sqrt(1 - alphas_cumprod) at t, shaped to meet images."""
    a = alphas[t][:, None, None, None]
    return a.sqrt().to(like), (1 - a).sqrt().to(like)


def guided_repair(
    unet: UNet, x0: Tensor, t: Sequence[Tensor], noise: Sequence[Tensor], guidance: float
) -> tuple[Tensor, Tensor]:
    """eps of both noise scales, the smaller one first, as one batch; and the reconstruction."""
    (t_s, t_b), (eps_s, eps_b) = t, noise
    a_s, b_s = coefficients(unet.alphas_cumprod, t_s, x0)
    a_b, b_b = coefficients(unet.alphas_cumprod, t_b, x0)
    x_s, x_b = a_s * x0 + b_s * eps_s, a_b * x0 + b_b * eps_b
    eps = unet(torch.cat([x_s, x_b]), torch.cat([t_s, t_b]))
    e_s, e_b = eps.chunk(2)
    x0_b = ((x_b - b_b * e_b) / a_b).clamp(-1, 1)
    guided = e_s - b_s * guidance * (a_s * x0_b + b_s * e_s - x_s)
    return eps, ((x_s - b_s * guided) / a_s).clamp(-1, 1)


def noise_loss(eps: Tensor, noise: Sequence[Tensor], normal: Tensor) -> Tensor:
    """Squared errors of both noise scales, mean over the images for which `normal` is 1, not 0."""
    e_s, e_b = eps.chunk(2)
    per_image = ((e_s - noise[0]) ** 2 + (e_b - noise[1]) ** 2).mean(dim=(1, 2, 3))
    return (per_image * normal).sum() / normal.sum().clamp(min=1)


def focal_loss(bce: Tensor) -> Tensor:
    """From each pixel's cross-entropy: gamma 4, alpha 1/2."""
    return (0.5 * (1 - torch.exp(-bce)) ** 4 * bce).mean()


class Pass(nn.Module):
    """The whole norm-guided pass with given noises: eps, reconstruction, mask."""

    def __init__(self, unet: UNet, seg: SegmentationNet, t_s: int, t_b: int, w: float) -> None:
        super().__init__()
        self.unet, self.seg, self.t, self.w = unet, seg, (t_s, t_b), w

    def forward(self, x0: Tensor, eps_s: Tensor, eps_b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        t = [torch.full((x0.shape[0],), t) for t in self.t]
        eps, repaired = guided_repair(self.unet, x0, t, (eps_s, eps_b), self.w)
        return eps, repaired, self.seg(torch.cat([x0, repaired], dim=1))


class Detector(nn.Module):
    """uint8 (N, H, W, 3) to reconstruction, mask and score; the noises are (1, 3, H, W)."""

    def __init__(self, steps: Pass, noise: Sequence[Tensor], top_k: int) -> None:
        super().__init__()
        self.steps, self.noise, self.top_k = steps, noise, top_k

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x0 = pixels.permute(0, 3, 1, 2).to(self.noise[0].dtype) / 255
        _, repaired, mask = self.steps(x0, *self.noise)
        return repaired, mask, mask.flatten(1).topk(self.top_k).values.mean(dim=1)


class Trainer:
    """One step of the paper's training; names as those of diffusionad.Trainer."""

    def __init__(
        self,
        unet: UNet,
        seg: SegmentationNet,
        unet_lr: float = 1e-4,
        seg_lr: float = 1e-5,
        seg_cosine_t_max: int = 10,
        guidance: float = 1.0,
        fused: bool = True,
    ) -> None:
        self.unet, self.seg, self.guidance = unet, seg, guidance
        self.optimizers = [
            torch.optim.Adam(unet.parameters(), lr=unet_lr, fused=fused),
            torch.optim.Adam(seg.parameters(), lr=seg_lr, fused=fused),
        ]
        self.cosine = torch.optim.lr_scheduler.CosineAnnealingLR(
            self.optimizers[1], seg_cosine_t_max, eta_min=0
        )

    def losses(
        self,
        x0: Tensor,
        masks: Tensor,
        labels: Tensor,
        t: Sequence[Tensor],
        noise: Sequence[Tensor],
    ) -> dict[str, Tensor]:
        """Norm-guided reconstruction, segmentation, and the three losses with their sum."""
        eps, reconstruction = guided_repair(self.unet, x0, t, noise, self.guidance)
        predicted = self.seg(torch.cat([x0, reconstruction], dim=1))

        noise_term = noise_loss(eps, noise, (labels.reshape(-1) == 0).to(eps))
        focal = focal_loss(F.binary_cross_entropy(predicted, masks, reduction="none"))
        smooth_l1 = F.smooth_l1_loss(predicted, masks)
        return {
            "noise": noise_term,
            "focal": focal,
            "smooth_l1": smooth_l1,
            "total": noise_term + 5 * focal + smooth_l1,
            "x0": reconstruction,
            "mask": predicted,
        }

    def step(
        self,
        x0: Tensor,
        masks: Tensor,
        labels: Tensor,
        t: Sequence[Tensor],
        noise: Sequence[Tensor],
    ) -> dict[str, Tensor]:
        out = self.losses(x0, masks, labels, t, noise)
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        out["total"].backward()
        for optimizer in self.optimizers:
            optimizer.step()
        self.cosine.step()
        return out


def recipe_weights(network: nn.Module, seed: int = inputs.SEED) -> dict[str, Tensor]:
    """Weights that are a function of seed and parameter name alone, see inputs.recipe()."""
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    return {name: torch.from_numpy(v) for name, v in inputs.recipe(shapes, seed).items()}


def under(data: Mapping[str, np.ndarray], prefix: str) -> dict[str, Tensor]:
    return {k[len(prefix) :]: torch.from_numpy(data[k]) for k in data if k.startswith(prefix)}


class Checks:
    def __init__(self) -> None:
        self.failed = 0

    def close(self, name: str, got: Tensor, want: Tensor, tolerance: float) -> None:
        """Largest error against the largest value."""
        error = float((got.detach() - want).abs().max() / want.abs().max().clamp(min=1e-30))
        self.report(name, error, tolerance)

    def close_l2(
        self, name: str, got: Mapping[str, Tensor], want: Mapping[str, Tensor], tolerance: float
    ) -> None:
        """Relative L2 error of the worst tensor; tiny ones are measured on the common scale."""
        if set(got) != set(want):
            raise SystemExit(f"{name}: other names: {sorted(set(got) ^ set(want))[:4]}")
        scale = max(float(w.abs().max()) for w in want.values())
        worst = max(
            float((got[k] - w).norm() / (w.norm() + 1e-3 * scale * math.sqrt(w.numel())))
            for k, w in want.items()
        )
        self.report(name, worst, tolerance)

    def report(self, name: str, error: float, tolerance: float) -> None:
        self.failed += not error <= tolerance
        print(f"{'ok  ' if error <= tolerance else 'FAIL'} {name}: {error:.2g} (<= {tolerance:g})")


def gradients(network: nn.Module) -> dict[str, Tensor]:
    return {k: p.grad for k, p in network.named_parameters() if p.grad is not None}


def check_golden(folder: Path) -> int:
    """Compares with every golden file that `folder` has; the number of failed checks."""
    checks = Checks()
    for file in ("unet_tiny", "unet_tiny_headch_plain_updown", "seg_tiny"):
        if not (path := folder / f"{file}.npz").exists():
            continue
        data = dict(np.load(path))
        config: dict[str, Any] = json.loads(str(data["config"]))
        x = torch.from_numpy(data["x"]).requires_grad_()
        if file == "seg_tiny":
            network: nn.Module = SegmentationNet(**config)
            network.load_state_dict(under(data, "param/"))
            network.eval()
            checks.close(f"{file} mask", network(x), torch.from_numpy(data["mask_eval"]), 2e-5)
            network.train()
            y, grad, tolerance = network(x), data["grad_mask"], 5e-2
        else:
            network, tolerance = UNet(**config), 1e-3
            network.load_state_dict(under(data, "param/"))
            y, grad = network(x, torch.from_numpy(data["t"])), data["grad_eps"]
            checks.close(f"{file} eps", y, torch.from_numpy(data["eps"]), 2e-5)
        y.backward(torch.from_numpy(grad))
        checks.close_l2(f"{file} gradients", gradients(network), under(data, "grad/"), tolerance)
    if (path := folder / "train_three_steps.npz").exists():
        check_training(checks, dict(np.load(path)))
    return checks.failed


def check_training(checks: Checks, data: Mapping[str, np.ndarray]) -> None:
    config = json.loads(str(data["config"]))
    unet, seg = UNet(**config["unet"]), SegmentationNet(**config["seg"])
    for network in (unet, seg):
        network.load_state_dict(recipe_weights(network, config["seed"]))
        network.train()
    trainer = Trainer(unet, seg)
    for i, tolerance in enumerate((2e-5, 1e-3, 1e-2)):
        s = under(data, f"step{i}/")
        t, noise = (s["t_s"], s["t_b"]), (s["noise_s"], s["noise_b"])
        out = trainer.step(s["image"], s["mask"], s["label"], t, noise)
        for ours, golden in (("noise", "noise_loss"), ("focal", "focal"), ("total", "total")):
            checks.close(f"step {i} {ours}", out[ours], s[golden], tolerance)
        if i == 0:
            # Wide, because a few ReLUs at their kink flip under rounding (in float64 the distance
            # from the golden file is the same, from float32 a hundred times smaller), and their
            # gradient reaches the UNet through the reconstruction.
            checks.close_l2("unet gradients", gradients(unet), under(data, "grad0/unet/"), 5e-2)
            checks.close_l2("seg gradients", gradients(seg), under(data, "grad0/seg/"), 1e-1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Compare these networks with golden values.")
    parser.add_argument("golden", type=Path)
    raise SystemExit(1 if check_golden(parser.parse_args().golden) else 0)
