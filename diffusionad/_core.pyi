"""The C core on NumPy arrays.

Arrays are taken as they are: another dtype raises TypeError, another shape ValueError, an empty
array too; what is not contiguous is copied. Images are (N, C, H, W), filters (O, C, KH, KW).
"""

from collections.abc import Iterable
from typing import Literal, TypeAlias, TypedDict, final, overload

import numpy as np
from numpy.typing import NDArray

_Floats: TypeAlias = NDArray[np.float32]
_Doubles: TypeAlias = NDArray[np.float64]
_Ints: TypeAlias = NDArray[np.int32]
_Bytes: TypeAlias = NDArray[np.uint8]
_Labels: TypeAlias = NDArray[np.bool_] | NDArray[np.uint8]
_Scores: TypeAlias = NDArray[np.float32] | NDArray[np.float64]
_Counts: TypeAlias = NDArray[np.int64]
_Items: TypeAlias = NDArray[np.uint64]
_Steps: TypeAlias = tuple[NDArray[np.uint32], _Counts, _Items]
_Curve: TypeAlias = tuple[_Counts, _Counts, _Doubles, _Doubles]

_Algorithm: TypeAlias = Literal[
    "auto", "pointwise", "im2col", "winograd2", "winograd4", "winograd6", "doubled"
]
_Operation: TypeAlias = Literal["forward", "backward_data", "backward_filter"]
_What: TypeAlias = Literal["value", "average", "gradient", "m", "v"]

# ---- the process --------------------------------------------------------------------------------

class _BuildInfo(TypedDict):
    compiler: str
    openmp: int
    blas: str

def build_info() -> _BuildInfo: ...
def simd_level() -> str: ...
def simd_levels() -> list[str]: ...
def set_simd_level(name: str, /) -> None: ...
def has_bfloat16() -> bool: ...
def get_num_threads() -> int: ...
def set_num_threads(count: int, /) -> None: ...

# ---- networks -----------------------------------------------------------------------------------

@final
class Network:
    def parameters(self) -> list[tuple[str, tuple[int, ...], bool]]: ...
    def read(self, name: str, what: _What = "value") -> _Floats: ...
    def write(self, name: str, values: _Floats, what: _What = "value") -> None: ...
    def forward(
        self,
        x: _Floats,
        t: _Floats | None = None,
        *,
        training: bool = False,
        recompute: float = 0.0,
        input_gradient: bool = False,
        seed: int = 0,
        fast: bool = False,
        bfloat16: bool = False,
    ) -> _Floats: ...
    def backward(self, dy: _Floats) -> _Floats | None: ...
    def zero_gradients(self) -> None: ...
    def adam_step(
        self,
        lr: float,
        step: int,
        *,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-08,
        weight_decay: float = 0.0,
    ) -> None: ...
    def average_step(self, decay: float, /) -> None: ...
    def swap_average(self) -> None: ...
    def memory(
        self,
        batch_size: int,
        training: bool = False,
        recompute: float = 0.0,
        *,
        size: tuple[int, int] = ...,
    ) -> dict[str, int]: ...
    def trim(self) -> None: ...

def unet(
    height: int,
    width: int,
    in_channels: int,
    out_channels: int,
    channels: list[int] | tuple[int, ...],
    embedding: int,
    res_blocks: int,
    heads: int,
    head_channels: int,
    attention_strides: list[int] | tuple[int, ...],
    resblock_updown: bool,
    dropout: float,
    patch: int,
) -> Network: ...
def segmenter(
    height: int, width: int, in_channels: int, out_channels: int, base_channels: int, patch: int
) -> Network: ...

# ---- layers -------------------------------------------------------------------------------------

def conv2d(
    x: _Floats,
    w: _Floats,
    b: _Floats | None = None,
    stride: int = 1,
    padding: int = 1,
    algorithm: _Algorithm = "auto",
    image_bias: _Floats | None = None,
    residual: _Floats | None = None,
    doubled: bool = False,
    bfloat16: bool = False,
) -> _Floats: ...
def conv2d_moments(
    x: _Floats,
    w: _Floats,
    b: _Floats | None = None,
    stride: int = 1,
    padding: int = 1,
    algorithm: _Algorithm = "auto",
    image_bias: _Floats | None = None,
    residual: _Floats | None = None,
    doubled: bool = False,
    bfloat16: bool = False,
) -> tuple[_Floats, _Floats]: ...
def conv2d_backward(
    dy: _Floats,
    x: _Floats,
    w: _Floats,
    stride: int = 1,
    padding: int = 1,
    algorithm: _Algorithm = "auto",
) -> tuple[_Floats, _Floats, _Floats]: ...
def conv2d_seconds(
    operation: _Operation,
    x: _Floats,
    w: _Floats,
    algorithm: _Algorithm = "auto",
    doubled: bool = False,
) -> float: ...
def group_norm(
    x: _Floats,
    weight: _Floats,
    bias: _Floats,
    groups: int = 32,
    eps: float = 1e-05,
    activation: Literal["none", "silu"] = "none",
) -> _Floats: ...
def group_norm_backward(
    dy: _Floats,
    x: _Floats,
    weight: _Floats,
    bias: _Floats,
    groups: int = 32,
    eps: float = 1e-05,
    activation: Literal["none", "silu"] = "none",
) -> tuple[_Floats, _Floats, _Floats]: ...
@overload
def batch_norm(
    x: _Floats,
    weight: _Floats,
    bias: _Floats,
    running_mean: _Floats,
    running_var: _Floats,
    training: Literal[False] = False,
    momentum: float = 0.1,
    eps: float = 1e-05,
    activation: Literal["none", "relu"] = "none",
) -> _Floats: ...
@overload
def batch_norm(
    x: _Floats,
    weight: _Floats,
    bias: _Floats,
    running_mean: _Floats,
    running_var: _Floats,
    training: Literal[True],
    momentum: float = 0.1,
    eps: float = 1e-05,
    activation: Literal["none", "relu"] = "none",
) -> tuple[_Floats, _Floats, _Floats]: ...
def batch_norm_backward(
    dy: _Floats,
    x: _Floats,
    weight: _Floats,
    bias: _Floats,
    eps: float = 1e-05,
    activation: Literal["none", "relu"] = "none",
) -> tuple[_Floats, _Floats, _Floats]: ...
def attention(qkv: _Floats, heads: int) -> _Floats: ...
def attention_backward(dy: _Floats, qkv: _Floats, heads: int) -> _Floats: ...
def linear(x: _Floats, weight: _Floats, bias: _Floats | None = None) -> _Floats: ...
def linear_backward(
    dy: _Floats, x: _Floats, weight: _Floats
) -> tuple[_Floats, _Floats, _Floats]: ...
def time_embedding(t: _Floats, dim: int) -> _Floats: ...
def upsample_nearest(x: _Floats) -> _Floats: ...
def upsample_nearest_backward(dy: _Floats) -> _Floats: ...
def upsample_bilinear(x: _Floats) -> _Floats: ...
def upsample_bilinear_backward(dy: _Floats) -> _Floats: ...
def avg_pool(x: _Floats) -> _Floats: ...
def avg_pool_backward(dy: _Floats, height: int, width: int) -> _Floats: ...
def max_pool(x: _Floats) -> _Floats: ...
def max_pool_backward(dy: _Floats, x: _Floats) -> _Floats: ...
def concat(a: _Floats, b: _Floats) -> _Floats: ...
def concat_backward(dy: _Floats, channels: int) -> tuple[_Floats, _Floats]: ...
def silu(x: _Floats) -> _Floats: ...
def silu_backward(dy: _Floats, x: _Floats) -> _Floats: ...
def relu(x: _Floats) -> _Floats: ...
def relu_backward(dy: _Floats, y: _Floats) -> _Floats: ...
def sigmoid(x: _Floats) -> _Floats: ...
def sigmoid_backward(dy: _Floats, y: _Floats) -> _Floats: ...
def add(a: _Floats, b: _Floats) -> _Floats: ...
def dropout(x: _Floats, p: float, seed: int) -> _Floats: ...

# ---- losses and the optimizer -------------------------------------------------------------------

def squared_error(
    a: _Floats, b: _Floats, weight: _Floats | None = None
) -> tuple[_Doubles, _Floats]: ...
def focal_loss(pred: _Floats, target: _Floats) -> tuple[float, _Floats]: ...
def smooth_l1_loss(pred: _Floats, target: _Floats) -> tuple[float, _Floats]: ...
def bce_loss(pred: _Floats, target: _Floats) -> tuple[float, _Floats]: ...
def dice_loss(pred: _Floats, target: _Floats) -> tuple[float, _Floats]: ...
def adam(
    w: _Floats,
    m: _Floats,
    v: _Floats,
    dw: _Floats,
    lr: float,
    step: int,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-08,
    weight_decay: float = 0.0,
) -> tuple[_Floats, _Floats, _Floats]: ...
def moving_average(average: _Floats, w: _Floats, decay: float) -> _Floats: ...

# ---- diffusion ----------------------------------------------------------------------------------

def schedule(kind: str, timesteps: int) -> dict[str, _Doubles]: ...
def q_sample(x0: _Floats, noise: _Floats, abar: _Doubles) -> _Floats: ...
def predict_x0(x_t: _Floats, eps: _Floats, abar: _Doubles, clip: bool = False) -> _Floats: ...
def precondition(x_t: _Floats, output: _Floats, abar: _Doubles) -> _Floats: ...
def precondition_backward(deps: _Floats, abar: _Doubles) -> tuple[_Floats, _Floats]: ...
def ancestral_step(
    x_t: _Floats,
    eps: _Floats,
    noise: _Floats | None,
    abar: _Doubles,
    abar_prev: _Doubles,
    beta: _Doubles,
    variance: _Doubles,
) -> _Floats: ...
def norm_guided_eps(
    x_s: _Floats,
    x_b: _Floats,
    eps_s: _Floats,
    eps_b: _Floats,
    abar_s: _Doubles,
    abar_b: _Doubles,
    w: float = 1.0,
) -> _Floats: ...
def guide(
    x_s: _Floats,
    x_b: _Floats,
    eps_s: _Floats,
    eps_b: _Floats,
    abar_s: _Doubles,
    abar_b: _Doubles,
    w: float = 1.0,
) -> dict[str, _Floats]: ...
def guide_backward(
    dx0_hat: _Floats,
    x_s: _Floats,
    x_b: _Floats,
    eps_s: _Floats,
    eps_b: _Floats,
    abar_s: _Doubles,
    abar_b: _Doubles,
    w: float = 1.0,
) -> tuple[_Floats, _Floats]: ...

# ---- images and synthetic anomalies -------------------------------------------------------------

def resize_u8(image: _Bytes, height: int, width: int) -> _Bytes: ...
def resize_f32(map: _Floats, height: int, width: int) -> _Floats: ...
def perlin_noise(angles: _Doubles, height: int, width: int) -> _Floats: ...
def texture(height: int, width: int, seed: int) -> _Floats: ...
def augment(image: _Bytes, name: str, parameters: tuple[float, ...]) -> _Bytes: ...
@overload
def synthesize(
    images: _Floats,
    foregrounds: _Floats | None,
    appearances: _Floats | None,
    seeds: NDArray[np.uint64],
    anomaly_probability: float = 0.5,
    self_probability: float = 0.5,
    beta: tuple[float, float] = (0.2, 0.8),
    exponents: tuple[int, int] = (0, 5),
    threshold: float = 0.5,
    random_part: bool = False,
    stages: Literal[False] = False,
) -> tuple[_Floats, _Floats, _Counts]: ...
@overload
def synthesize(
    images: _Floats,
    foregrounds: _Floats | None,
    appearances: _Floats | None,
    seeds: NDArray[np.uint64],
    anomaly_probability: float = 0.5,
    self_probability: float = 0.5,
    beta: tuple[float, float] = (0.2, 0.8),
    exponents: tuple[int, int] = (0, 5),
    threshold: float = 0.5,
    random_part: bool = False,
    *,
    stages: Literal[True],
) -> tuple[_Floats, _Floats, _Counts, _Floats, _Floats, _Floats]: ...

# ---- foregrounds --------------------------------------------------------------------------------

def otsu_masks(images: _Bytes) -> tuple[NDArray[np.bool_], _Doubles]: ...
def level_light(images: _Bytes) -> _Bytes: ...
def scene_background(images: _Bytes) -> tuple[_Floats, _Floats]: ...
def scene_evidence(images: _Bytes, background: _Floats, spread: _Floats) -> _Floats: ...
def image_words(images: _Bytes) -> NDArray[np.uint16]: ...
def word_counts(words: NDArray[np.uint16], weights: _Floats | None = None) -> _Doubles: ...
def word_evidence(words: NDArray[np.uint16], object: _Doubles, background: _Doubles) -> _Floats: ...
def settle(
    evidence: _Floats,
    images: _Bytes,
    offset: float,
) -> _Floats: ...
def tidy_masks(masks: NDArray[np.bool_], keep: float) -> NDArray[np.bool_]: ...

# ---- metrics ------------------------------------------------------------------------------------

def label_metrics(labels: _Labels, scores: _Scores) -> dict[str, float]: ...
def pixel_metrics(masks: _Labels, maps: _Scores, fpr_limit: float = 0.3) -> dict[str, float]: ...
def label_curve(labels: _Labels, scores: _Scores) -> _Curve: ...
def pixel_curve(masks: _Labels, maps: _Scores) -> _Curve: ...
def filled_pro(
    masks: _Labels, maps: _Scores, thresholds: _Doubles
) -> tuple[_Doubles, _Doubles]: ...
def label_components(masks: _Labels) -> tuple[_Ints, _Ints]: ...
def split_pixels(
    masks: _Labels, maps: _Floats
) -> tuple[_Floats, _Items, NDArray[np.int64], NDArray[np.int64]]: ...
def defect_steps(defects: _Items, low: int = 0, high: int = 4294967295) -> _Steps: ...
def merge_steps(a: _Steps, b: _Steps) -> _Steps: ...
def count_scores(keys: NDArray[np.uint32], scores: _Floats) -> NDArray[np.int64]: ...
def count_images(
    first: NDArray[np.uint32],
    last: NDArray[np.uint32],
    good: _Floats,
    good_starts: NDArray[np.int64],
    defects: _Items,
    defect_starts: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.int64], _Doubles]: ...
def tally_steps(
    parts: Iterable[tuple[_Steps, NDArray[np.int64]]],
    totals: tuple[int, int, int],
    fpr_limit: float,
) -> dict[str, float]: ...
def weighted_metrics(
    starts: NDArray[np.int64],
    images: _Ints,
    good: _Doubles,
    found: _Doubles,
    shares: _Doubles,
    weights: _Doubles,
    fpr_limit: float = 0.3,
) -> _Doubles: ...
def image_scores(maps: _Scores, top_k: int = 50) -> _Doubles: ...
def departures(maps: _Floats, images: _Floats, repairs: _Floats) -> _Floats: ...
def relate_errors(departures: _Floats, radius: int) -> _Floats: ...
def standardise(departures: _Floats, mean: _Floats, deviation: _Floats) -> _Floats: ...
def nearest_distance(train: _Floats, test: _Floats) -> _Doubles: ...
