"""The command line: `diffusionad COMMAND ...`, or `python -m diffusionad COMMAND ...`.

Exit codes: 0 done; 1 failed; 2 bad usage or bad input, told in one line on stderr; 130
interrupted, with what was finished kept. Set DIFFUSIONAD_DEBUG=1 for tracebacks.
"""

from __future__ import annotations

import argparse
import logging
import math
import os
import re
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from diffusionad import option_files
from diffusionad.config import PRESETS
from diffusionad.console import complain, drop, printable
from diffusionad.datasets import KINDS, LAYOUTS
from diffusionad.errors import DiffusionADError, InputError, words_of
from diffusionad.serving.arguments import add_arguments as add_serving_arguments

INTERRUPTED = 130
SHELLS = ("bash", "zsh", "fish")
DEMO_BUDGET = 250.0  # seconds of training: the whole demo then stays below six minutes on 2 cores

EXAMPLES = """\
examples:
  diffusionad demo
  diffusionad train mvtec --category bottle --out runs/bottle --time-budget 20m
  diffusionad train parts/good --out runs/parts --steps 2000
  diffusionad evaluate runs/bottle/model.safetensors mvtec --category bottle --report bottle.html
  diffusionad predict runs/bottle/model.safetensors photos --out results
  diffusionad benchmark mvtec --categories all --out results --time-budget 10m
  diffusionad ablate mvtec --category screw --out ablation --time-budget 10m --seeds 0,1,2
  diffusionad datasets check mvtec --layout mvtec
  diffusionad synthesize mvtec --category bottle --out anomalies.png
  diffusionad convert params-best.pt bottle.safetensors
  diffusionad export runs/bottle/model.safetensors bottle.onnx
  diffusionad serve runs/bottle/model.safetensors --port 8000
  diffusionad info --system
"""


class _Parser(argparse.ArgumentParser):
    """A parser, of a command too, that takes whole names of options only, as a file has them."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, **settings)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {printable(message)} (see {self.prog} --help)\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; `arguments` default to the process's own."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed: `>&-`
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
    try:
        return _main(option_files.parse(build_parser(), arguments))
    finally:
        _flush_output()


def _main(args: argparse.Namespace) -> int:
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # any file name can be shown, if need be escaped
            stream.reconfigure(errors="backslashreplace")
    handler = _log_to_stderr(args.quiet)
    try:
        code = _run(args)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        return 1  # the reader of our output has left (`| head`): not worth a message
    except KeyboardInterrupt:
        _complain(args, "interrupted; what was finished is kept")
        return INTERRUPTED
    except Exception as error:
        if os.environ.get("DIFFUSIONAD_DEBUG", "0") not in ("", "0"):
            raise
        _complain(args, one_line(error))
        return _exit_code(error)
    finally:
        logging.getLogger("diffusionad").removeHandler(handler)


def _flush_output() -> None:
    """Flush what is printed; where nobody takes it any more, drop it."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            drop(stream)


def _complain(args: argparse.Namespace, message: str) -> None:
    complain(f"diffusionad {args.command}: {message}")


def build_parser() -> argparse.ArgumentParser:
    """The parser of every command."""
    common = _Parser(add_help=False)
    group = common.add_argument_group("options of every command")
    group.add_argument(
        "--json", type=_path, metavar="FILE", help="write the result as JSON; - is stdout"
    )
    group.add_argument("--threads", type=_positive, metavar="N", help="threads; results stay equal")
    group.add_argument("--seed", type=_natural, metavar="N", help="decides every random choice")
    group.add_argument("--quiet", action="store_true", help="print nothing but errors")
    group.add_argument(
        "--config", type=_path, metavar="FILE", help="options from a TOML file; others here win"
    )

    parser = _Parser(
        prog="diffusionad",
        description="Find anomalies in images by norm-guided one-step denoising diffusion.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action=_Version)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def add(name: str, about: str, example: str) -> argparse.ArgumentParser:
        command: argparse.ArgumentParser = commands.add_parser(
            name,
            parents=[common],
            help=about,
            description=about[0].upper() + about[1:] + ".",
            epilog=f"example:\n  diffusionad {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        return command

    _demo_arguments(add("demo", "train and test on the bundled real images", "demo --out demo"))
    _train_arguments(
        add("train", "train on good images",
            "train mvtec --category bottle --out runs/bottle --time-budget 20m")
    )  # fmt: skip
    _evaluate_arguments(
        add("evaluate", "measure a model on a dataset's test images",
            "evaluate runs/bottle/model.safetensors mvtec --category bottle --heatmaps maps")
    )  # fmt: skip
    _predict_arguments(
        add("predict", "score images and draw where they are anomalous",
            "predict runs/bottle/model.safetensors photos --out results")
    )  # fmt: skip
    _benchmark_arguments(
        add("benchmark", "train and measure a model for every category of a dataset",
            "benchmark mvtec --categories all --out results --time-budget 10m --seeds 0,1,2")
    )  # fmt: skip
    _ablate_arguments(
        add("ablate", "compare the method with what it would be without its parts",
            "ablate mvtec --category screw --out ablation --time-budget 10m --seeds 0,1,2")
    )  # fmt: skip
    _datasets_arguments(
        add("datasets", "compare a dataset with its published numbers, or list its categories",
            "datasets check mvtec --layout mvtec --json report.json")
    )  # fmt: skip
    _synthesize_arguments(
        add("synthesize", "draw the synthetic anomalies that training would learn from",
            "synthesize mvtec --category bottle --anomaly-source dtd --out anomalies.png")
    )  # fmt: skip
    _convert_arguments(
        add("convert", "turn a checkpoint of the reference (.pt) into a model file, or back",
            "convert params-best.pt bottle.safetensors")
    )  # fmt: skip
    _export_arguments(
        add("export", "write a model as one ONNX graph (needs the extra onnx)",
            "export runs/bottle/model.safetensors bottle.onnx")
    )  # fmt: skip
    serve = add("serve", "answer HTTP requests, and show a page to drop images on (extra: serve)",
                "serve runs/bottle/model.safetensors --port 8000")  # fmt: skip
    serve.add_argument("model", type=_path, metavar="MODEL", help="a model file")
    add_serving_arguments(serve)
    _run_arguments(serve)
    info = add("info", "show versions and threads, or what a model file holds",
               "info runs/bottle/model.safetensors")  # fmt: skip
    info.add_argument("model", nargs="?", type=_path, metavar="MODEL", help="a model file")
    info.add_argument("--system", action="store_true", help="all that a bug report should tell")
    completion = add("completion", "print what completes commands in a shell (extra: completion)",
                     "completion bash >> ~/.bash_completion")  # fmt: skip
    completion.add_argument("shell", choices=SHELLS)
    return parser


def _demo_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--out", type=_path, default="demo", metavar="DIR", help="folder of results (demo)"
    )
    _report_argument(command, "report.html in --out")
    _training_arguments(command)
    command.set_defaults(settings={})  # of the file of --config


def _train_arguments(command: argparse.ArgumentParser) -> None:
    _data_arguments(command)
    command.add_argument(
        "--out", type=_path, required=True, metavar="DIR", help="folder of the model"
    )
    _training_arguments(command)
    _foreground_arguments(command)
    command.add_argument("--resume", action="store_true", help="go on with what is in --out")
    command.add_argument("--overwrite", action="store_true", help="replace a model in --out")
    command.set_defaults(settings={})


def _kind_argument(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--kind", choices=KINDS, help="what the images show, instead of what the layout says"
    )


def _foreground_arguments(command: argparse.ArgumentParser) -> None:
    _kind_argument(command)
    command.add_argument(
        "--foreground", type=_path, metavar="PATH",
        help="a folder of masks of the part, named as images, or the ONNX file of a network that "
        "finds it (extra: foreground); without it DISthresh beside the images, or for objects "
        "what is found in them",
    )  # fmt: skip


def _synthesize_arguments(command: argparse.ArgumentParser) -> None:
    _data_arguments(command)
    command.add_argument(
        "--out", type=_path, required=True, metavar="FILE", help="a PNG file: one row per image"
    )
    _foreground_arguments(command)
    _source_argument(command)
    command.add_argument(
        "--count", type=_positive, default=8, metavar="N", help="images, spread over all (8)"
    )
    command.add_argument(
        "--image-size", type=_positive, default=256, metavar="PX", help="side of the images (256)"
    )


def _source_argument(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--anomaly-source", type=_path, metavar="DIR",
        help="images for synthetic anomalies, such as DTD; without it textures are generated",
    )  # fmt: skip


def _evaluate_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("model", type=_path, metavar="MODEL", help="a model file")
    _data_arguments(command)
    command.add_argument(
        "--protocol", choices=("benchmark", "reference"), default="benchmark",
        help="exact metrics (default), or those of the reference implementation",
    )  # fmt: skip
    command.add_argument(
        "--resolution", choices=("model", "native"), default=None,
        help="compare maps and masks at the model's size (default), or at each image's own, "
        "as with --tiles",
    )  # fmt: skip
    command.add_argument(
        "--resize-masks", action="store_true",
        help="bring masks of another size than their image to its size, by the nearest pixel",
    )  # fmt: skip
    command.add_argument(
        "--fpr-limit", type=_rate, default=0.3, metavar="RATE",
        help="false-positive rate up to which AUPRO is taken (0.3)",
    )  # fmt: skip
    command.add_argument(
        "--resamples", type=_natural, default=1000, metavar="N",
        help="resamples of the images for 95%% confidence intervals (1000); 0: none",
    )  # fmt: skip
    command.add_argument(
        "--heatmaps", type=_path, metavar="DIR", help="write a panel for every test image"
    )
    _report_argument(command, "none")
    _tile_arguments(command)
    _run_arguments(command)


def _report_argument(command: argparse.ArgumentParser, default: str) -> None:
    command.add_argument(
        "--report", type=_path, metavar="FILE",
        help=f"the results as one HTML page: numbers, curves, telling images ({default})",
    )  # fmt: skip


def _tile_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--tiles", action="store_true",
        help="look at images tile by tile, at their own resolution, with a model trained on such "
        "tiles",
    )  # fmt: skip
    command.add_argument(
        "--tile-size", type=_positive, metavar="PX", help="side of a tile (the model's image size)"
    )
    command.add_argument(
        "--tile-overlap", type=float, metavar="SHARE",
        help="share of its side that a tile has in common with the next, 0 to 0.9 (0.25)",
    )  # fmt: skip


def _run_arguments(command: argparse.ArgumentParser) -> None:
    """How this computer runs the networks: no setting of the model."""
    command.add_argument("--fast", action="store_true", help="less time, more rounding")
    command.add_argument(
        "--bfloat16", action="store_true",
        help="still less time, still more rounding; needs a processor with AVX512_BF16",
    )  # fmt: skip
    command.add_argument(
        "--low-memory", action="store_true", help="images one after the other: less memory"
    )


def _benchmark_arguments(command: argparse.ArgumentParser) -> None:
    _data_arguments(command, category=False)
    command.add_argument(
        "--categories", type=_names, default=None, metavar="A,B",
        help="which of the dataset's categories: names, or all (default); the code is 1 where one "
        "cannot be trained or measured, its row says why",
    )  # fmt: skip
    _study_arguments(command)
    _report_argument(command, "report.html in --out")
    command.add_argument(
        "--protocol", choices=("benchmark", "reference"), default="benchmark",
        help="exact metrics, nothing chosen by test data (default); or what the reference "
        "implementation does: its metrics, and the best stage of training by test data",
    )  # fmt: skip


def _ablate_arguments(command: argparse.ArgumentParser) -> None:
    _data_arguments(command)
    _study_arguments(command)
    command.add_argument(
        "--model", type=_path, action="append", default=[], metavar="FILE", dest="models",
        help="a trained model to measure; may be repeated; nothing is trained then",
    )  # fmt: skip
    for option, about in (("--t-s", "smaller"), ("--t-b", "bigger")):
        command.add_argument(
            option, type=_steps, default=None, metavar="T,T",
            help=f"{about} noise scales of the sweep, time steps from 0; none: no sweep",
        )  # fmt: skip
    command.add_argument(
        "--test-images", type=_positive, metavar="N",
        help="measure on so many test images, of each kind in turn; all unless given",
    )  # fmt: skip


def _study_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--out", type=_path, required=True, metavar="DIR",
        help="folder of results; called again, the command goes on from there",
    )  # fmt: skip
    _training_arguments(command)
    _kind_argument(command)
    command.add_argument(
        "--seeds", type=_seeds, metavar="N,N",
        help="train once with each, as long as --steps or --time-budget says; --seed, or 0",
    )  # fmt: skip


def _datasets_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "action", choices=("check", "list"),
        help="check: count, and read every file; ends with 1 where anything differs",
    )  # fmt: skip
    _data_arguments(command)
    command.add_argument(
        "--counts-only", action="store_true", help="check names and numbers, read no file"
    )


def _convert_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "source", type=_path, metavar="IN", help="a checkpoint of the reference, or a model file"
    )
    command.add_argument(
        "out", type=_path, metavar="OUT", help="the other: .safetensors, or .pt (or .pth)"
    )
    command.add_argument(
        "--image-size", type=_positive, metavar="PX", help="of a .pt that does not say it"
    )
    command.add_argument(
        "--num-heads", type=_positive, metavar="N", help="attention heads of such a .pt (4)"
    )
    command.add_argument("--overwrite", action="store_true", help="replace OUT")


def _export_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("model", type=_path, metavar="MODEL", help="a model file")
    command.add_argument("out", type=_path, metavar="OUT", help="the ONNX file: OUT.onnx")
    command.add_argument(
        "--noise-inputs", action="store_true",
        help="take the noise images as inputs, instead of keeping those of the seed in the file",
    )  # fmt: skip
    command.add_argument("--overwrite", action="store_true", help="replace OUT")


def _predict_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("model", type=_path, metavar="MODEL", help="a model file")
    command.add_argument(
        "images",
        nargs="+",
        type=_path,
        metavar="IMAGE_OR_FOLDER",
        help="images, and folders with all in them",
    )
    command.add_argument(
        "--out", type=_path, required=True, metavar="DIR", help="folder of results"
    )
    _tile_arguments(command)
    _run_arguments(command)


def _data_arguments(command: argparse.ArgumentParser, category: bool = True) -> None:
    command.add_argument(
        "data", type=_path, metavar="DATA",
        help="a dataset's folder, one of good images, or a CSV file: path, label, mask, split",
    )  # fmt: skip
    if category:
        command.add_argument("--category", metavar="C", help="which part of the dataset")
    command.add_argument(
        "--layout", default="auto", metavar="L", help=f"auto, {', '.join(LAYOUTS)}"
    )


def _training_arguments(command: argparse.ArgumentParser) -> None:
    presets = "; ".join(f"{name}: {row.about}" for name, row in PRESETS.items())
    command.add_argument("--preset", choices=tuple(PRESETS), default=None, help=presets)
    for option, unit in (("--image-size", "PX"), ("--batch-size", "N")):
        command.add_argument(option, type=_positive, metavar=unit, help="instead of the preset's")
    command.add_argument(
        "--memory-budget", type=_gigabytes, metavar="GB",
        help="of a training step, which takes more time with less; 0: as little as can be",
    )  # fmt: skip
    _source_argument(command)
    length = command.add_mutually_exclusive_group()
    length.add_argument(
        "--time-budget", type=parse_duration, metavar="TIME", help="such as 90s, 20m or 1h30m"
    )
    length.add_argument("--steps", type=_positive, metavar="N", help="training steps")


def parse_duration(text: str) -> float:
    """Seconds of "90s", "20m", "1h", "1h30m" or a plain number of seconds.

    >>> [parse_duration(text) for text in ("600", "90s", "20m", "1h30m", "1.5h")]
    [600.0, 90.0, 1200.0, 5400.0, 5400.0]
    """
    number = r"([0-9]+(?:\.[0-9]+)?)"
    match = re.fullmatch(rf"(?:{number}h)?(?:{number}m)?(?:{number}s?)?", text.strip().lower())
    seconds = 0.0
    if match is not None:
        units = zip(match.groups(), (3600.0, 60.0, 1.0), strict=True)
        seconds = sum(float(part) * unit for part, unit in units if part is not None)
    if seconds <= 0.0:
        raise argparse.ArgumentTypeError(f"expected a time such as 90s, 20m or 1h, got {text!r}")
    return seconds


def _path(text: str) -> str:
    if not text:  # an empty variable in a script must not become the working folder
        raise argparse.ArgumentTypeError("expected a path, got an empty text")
    return text


def _positive(text: str) -> int:
    return _whole(text, 1)


def _gigabytes(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0.0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number of GB of 0 or more, got {text!r}")
    return value


def _natural(text: str) -> int:
    return _whole(text, 0)


def _names(text: str) -> tuple[str, ...] | None:
    """Names between commas; None for "all"."""
    names = tuple(name.strip() for name in text.split(","))
    if not all(names):
        raise argparse.ArgumentTypeError(f"expected names between commas, or all, got {text!r}")
    return None if names == ("all",) else names


def _seeds(text: str) -> tuple[int, ...]:
    return tuple(dict.fromkeys(_natural(part) for part in text.split(",")))


def _steps(text: str) -> tuple[int, ...]:
    """Time steps in order; an empty tuple for "none"."""
    return () if text == "none" else tuple(sorted(_seeds(text)))


def _rate(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.0 < value <= 1.0:
        raise argparse.ArgumentTypeError(f"expected a rate above 0 and up to 1, got {text!r}")
    return value


def _whole(text: str, low: int) -> int:
    try:
        value = int(text)
    except ValueError:
        value = low - 1
    if value < low:
        raise argparse.ArgumentTypeError(f"expected a whole number of {low} or more, got {text!r}")
    return value


class _Version(argparse.Action):
    def __init__(self, option_strings: Sequence[str], dest: str, **_: object) -> None:
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, help="show the version")

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from diffusionad import __version__

        print(f"diffusionad {__version__}")
        parser.exit()


def _run(args: argparse.Namespace) -> int:
    from diffusionad import _core, commands

    if args.threads is not None:
        if args.threads > 1024:
            raise InputError(f"--threads: expected 1 to 1024, got {args.threads}")
        _core.set_num_threads(args.threads)
    return commands.run(args)


def _exit_code(error: BaseException) -> int:
    if isinstance(error, DiffusionADError):
        return error.exit_code
    # A file given on the command line that is not there, or a value that the core refuses.
    missing = (FileNotFoundError, NotADirectoryError, IsADirectoryError, ValueError)
    return 2 if isinstance(error, missing) else 1


def one_line(error: BaseException) -> str:
    """What is wrong, with escapes for what a terminal would act on."""
    return printable(_words(error))


def _words(error: BaseException) -> str:
    if isinstance(error, MemoryError):
        return f"not enough memory: {error}; a smaller --batch-size or --image-size needs less"
    if isinstance(error, OSError) and error.strerror:
        what = "output" if error.filename is None else os.fsdecode(error.filename)
        return f"{what}: {error.strerror.lower()}"
    if isinstance(error, (DiffusionADError, ValueError, ArithmeticError, OSError)) and str(error):
        return words_of(error)
    return f"{type(error).__name__}: {words_of(error)} (DIFFUSIONAD_DEBUG=1 shows where)"


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record), keep="\n\t")


def _log_to_stderr(quiet: bool) -> logging.Handler:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter("warning: %(message)s"))
    handler.setLevel(logging.ERROR if quiet else logging.WARNING)
    logging.getLogger("diffusionad").addHandler(handler)
    return handler
