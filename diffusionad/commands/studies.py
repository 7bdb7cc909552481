"""The commands that train and measure several models: benchmark, ablate."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from diffusionad import ablation
from diffusionad import benchmark as benchmarking
from diffusionad.commands.results import open_console, show_table, write_result
from diffusionad.errors import InputError
from diffusionad.studies import Recipe


def benchmark(args: Namespace) -> int:
    """Train and measure every category; the code is 1 where one of them could not be."""
    console = open_console(args)
    page = args.report or Path(args.out) / benchmarking.REPORT_FILE
    report = benchmarking.benchmark(
        args.data, args.out, args.layout, args.categories, recipe(args), _seeds(args),
        args.protocol, console, page,
    )  # fmt: skip
    show_table(console, benchmarking.table(report))
    console.say(f"\nresults   {Path(args.out) / 'benchmark.json'}, and table.* beside it")
    console.say(f"figure    {Path(args.out) / 'figure.png'}")
    console.say(f"report    {page}")
    write_result(args, report)
    return 1 if report["failed"] else 0


def ablate(args: Namespace) -> int:
    """Compare the method with what it would be without its parts, and over its noise scales."""
    console = open_console(args)
    if args.models and (args.steps or args.time_budget or args.seeds or args.seed is not None):
        raise InputError("--model: nothing is trained, so there are no seeds, steps and budgets")
    report = ablation.ablate(
        args.data, args.out, args.layout, args.category, recipe(args), _seeds(args),
        args.models, args.t_s, args.t_b, args.test_images, console,
    )  # fmt: skip
    for shown in ablation.tables(report):
        show_table(console, shown)
    console.say(f"\nresults   {Path(args.out) / 'ablation.json'}, and tables beside it")
    write_result(args, report)
    return 0


def recipe(args: Namespace) -> Recipe:
    return Recipe(
        args.preset or "compact", args.image_size, args.batch_size, args.steps, args.time_budget,
        args.anomaly_source, args.kind, args.memory_budget,
    )  # fmt: skip


def _seeds(args: Namespace) -> tuple[int, ...]:
    if args.seeds is not None and args.seed is not None:
        raise InputError("--seed, --seeds: expected one of the two, got both")
    return args.seeds if args.seeds is not None else (args.seed or 0,)
