"""What a study of many trainings stands on: its results file, its trainings, means and spreads.

A study lives in one folder. Its results file is written whole after every row, so that a study that
was killed goes on where it was: rows that are finished stay, a training that was under way is
resumed from its own folder, bit for bit.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import diffusionad as dad
from diffusionad import checkpoints, normality, system
from diffusionad.config import NO_RESULT, ModelConfig, TrainConfig, of_today, to_dict, update
from diffusionad.datasets import Dataset, Sample
from diffusionad.datasets.samples import relative_name, size_fingerprint
from diffusionad.errors import InputError
from diffusionad.files import PathLike, reason, remove_temporaries, write_json
from diffusionad.fitting import MODEL_FILE, STATE_FILE, settings_of_run, settle_kind
from diffusionad.sources import Textures

if TYPE_CHECKING:
    from diffusionad.console import Console
    from diffusionad.model import DiffusionAD, Progress

Row = dict[str, Any]
# Settings that differ from one training of a study to the next, and those that decide nothing.
OFTEN = {"seed", "steps", *NO_RESULT}
DEFAULTS = {**to_dict(ModelConfig()), **to_dict(TrainConfig())}  # in files that lack a setting
LONGEST_NAME = 200  # of a category's folder; file systems take 255, endings included


@dataclass(frozen=True)
class Recipe:
    """How the models of a study are made and trained, but for their seeds.

    ``steps`` or ``time_budget`` (seconds) is the length of each training; without both it is the
    preset's.
    """

    preset: str = "compact"
    image_size: int | None = None
    batch_size: int | None = None
    steps: int | None = None
    time_budget: float | None = None
    anomaly_source: PathLike | None = None
    kind: str | None = None  # what the images show, instead of what the dataset says
    memory_budget: float | None = None  # decides no result

    def model(self, seed: int, **overrides: Any) -> DiffusionAD:
        """A new model. Raises InputError for unusable settings."""
        return dad.DiffusionAD(
            preset=self.preset,
            image_size=self.image_size,
            seed=seed,
            batch_size=self.batch_size,
            memory_budget=self.memory_budget,
            **overrides,
        )

    def settings(self) -> dict[str, Any]:
        """All that decides the results, by name; the anomaly source by its files' names and sizes.

        Raises InputError for unusable settings and for an anomaly source without images.
        """
        model = self.model(0)
        values = {**to_dict(model.config), **to_dict(model.train_config)}
        files = None
        if self.anomaly_source is not None:
            files = Textures(self.anomaly_source, model.config.image_size).fingerprint()
        return {
            **{name: value for name, value in values.items() if name not in OFTEN},
            "steps": self.steps if self.steps or self.time_budget else values["steps"],
            "time_budget": self.time_budget,
            "kind": self.kind or "auto",
            "anomaly_source": None if files is None else Path(str(self.anomaly_source)).name,
            "anomaly_source_files": files,
        }


class Study:
    """The results of a study, kept in `<folder>/<name>.json` from the first row on.

    `values` is the file's content. Raises InputError where the file is damaged, or of a study with
    other `settings`: the first difference is then named.
    """

    def __init__(self, folder: Path, name: str, settings: Mapping[str, Any]) -> None:
        self.path = folder / f"{name}.json"
        self.format = f"diffusionad-{name}/1"
        self.begun = time.monotonic()
        remove_temporaries(folder, (self.path.name,))
        # As JSON gives them back: tuples as lists.
        plain = json.loads(json.dumps(dict(settings)))
        self.values: dict[str, Any] = {"format": self.format, "settings": plain}
        if self.path.exists():
            self.values = self._read()
            self._compare(plain)
        self.seconds_before = float(self.values.get("wall_seconds", 0.0))

    def rows(self, part: str = "rows") -> list[Row]:
        """The rows of one part of the file, in the order in which they were finished."""
        found: list[Row] = self.values.setdefault(part, [])
        return found

    def find(self, part: str = "rows", **key: Any) -> Row | None:
        """The finished row with these values; None where it is still to be done, or failed."""
        return next(
            (
                row
                for row in self.rows(part)
                if "error" not in row and all(row.get(k) == v for k, v in key.items())
            ),
            None,
        )

    def put(self, row: Row, *key: str, part: str = "rows") -> None:
        """Add a row, in the place of one with the same key; save() writes it."""
        kept = [old for old in self.rows(part) if any(old.get(k) != row[k] for k in key)]
        self.values[part] = [*kept, row]

    def save(self, **report: Any) -> None:
        """Write the file whole, with a report made of the rows. Raises WriteError."""
        self.values |= {
            **report,
            "wall_seconds": round(self.seconds_before + time.monotonic() - self.begun, 3),
            "versions": system.versions(),
        }
        write_json(self.path, self.values)

    def _read(self) -> dict[str, Any]:
        again = "move it away to begin anew; trainings that are finished are kept"
        try:
            values = json.loads(self.path.read_text(encoding="utf-8"))
        except OSError as error:
            raise InputError(f"{self.path}: cannot be read: {reason(error)}") from error
        except ValueError as error:
            raise InputError(f"{self.path}: damaged: {error}; {again}") from error
        found = values.get("format") if isinstance(values, dict) else None
        if found != self.format:
            raise InputError(
                f"{self.path}: expected a results file of format {self.format}, "
                f"got {found or 'none'}; {again}"
            )
        parts = [value for name, value in values.items() if name in ("rows", "sweep")]
        sound = all(isinstance(rows, list) and all(isinstance(r, dict) for r in rows)
                    for rows in parts)  # fmt: skip
        if not sound or not isinstance(values.get("settings"), dict):
            raise InputError(f"{self.path}: damaged: no settings or no rows; {again}")
        if not isinstance(values.get("wall_seconds", 0.0), (int, float)):
            raise InputError(f"{self.path}: damaged: wall_seconds is no number; {again}")
        read: dict[str, Any] = values
        return read

    def _compare(self, settings: Mapping[str, Any]) -> None:
        theirs = of_today(self.values["settings"])
        for name in {**settings, **theirs}:
            there = theirs.get(name, DEFAULTS.get(name))
            if name not in NO_RESULT and there != settings.get(name):
                raise InputError(
                    f"{self.path.parent}: holds results with {name} {_shown(there)}, "
                    f"this run has {_shown(settings.get(name))}: choose another folder"
                )


def _shown(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


# ---- trainings --------------------------------------------------------------------------------


def trained(
    folder: Path,
    model: DiffusionAD,
    dataset: Dataset,
    recipe: Recipe,
    steps: int | None,
    console: Console,
    watch: Callable[[Progress], None] | None = None,
) -> DiffusionAD:
    """`model` after its training in `folder`, which is begun, gone on with, or finished already.

    ``steps`` is the number of steps where it is known; else the recipe's time budget decides it.
    ``watch`` is called after every step. Raises InputError where the folder holds a training of
    another model or length, on other images or with another anomaly source.
    """
    file, state = folder / MODEL_FILE, folder / STATE_FILE
    model.train_config = settle_kind(model.train_config, dataset.kind)
    wanted = _settings(model.config, model.train_config)
    length = steps or recipe.steps
    if length is None and recipe.time_budget is None:
        length = model.train_config.steps
    if file.exists():
        found = dad.load(file)
        if found.provenance.get("finished"):
            of = found.provenance.get("data", {})
            settings = _settings(found.config, found.train_config)
            if settings != wanted or found.config.seed != model.config.seed:
                raise InputError(f"{file}: a model with other settings than this study's")
            if of.get("images") != dataset.fingerprint(train_only=True):
                raise InputError(f"{file}: a model of other images than {dataset.category}'s")
            _compare(file, "steps", found.train_config.steps, length)
            source = recipe.anomaly_source
            name = "procedural" if source is None else Path(source).name
            _compare(file, "anomaly_source", of.get("anomaly_source"), name)
            return found
    resume = state.exists()
    if resume:
        configs = settings_of_run(folder)
        if _settings(*configs) != wanted:
            raise InputError(f"{state}: a training with other settings than this study's")
        _compare(state, "steps", configs[1].steps, length)
    with console.training() as progress:

        def each(p: Progress) -> None:
            progress(p)
            if watch is not None:
                watch(p)

        model.fit(
            dataset,
            anomaly_source=recipe.anomaly_source,
            steps=None if resume else length,
            time_budget=None if resume or length else recipe.time_budget,
            progress=each,
            out=folder,
            resume=resume,
        )
    return model


def goes_on(folder: Path) -> bool:
    """Whether trained() takes up, or takes over, the training that lies in a folder."""
    return (folder / STATE_FILE).exists() or finished(folder) is not None


def finished(folder: Path) -> checkpoints.Header | None:
    """What the model of a training that has come to its end says of itself. Raises InputError."""
    file = folder / MODEL_FILE
    header = checkpoints.read_header(file) if file.exists() else None
    return header if header is not None and header.provenance.get("finished") else None


def _compare(file: Path, name: str, theirs: object, ours: object) -> None:
    """Refuse a training of something else, where the study says what."""
    if ours not in (None, theirs):
        raise InputError(
            f"{file}: a training with {name} {theirs}, this study has {ours}: "
            "choose another folder, or move this file away"
        )


def forget_state(folder: Path) -> None:
    """Remove what only a resumed training needs: several times as many bytes as the model."""
    with contextlib.suppress(OSError):
        (folder / STATE_FILE).unlink()


def run_name(category: str) -> str:
    """A category's name as that of a folder: a table's may hold what a path cannot.

    >>> run_name("metal_nut"), run_name("a/b"), run_name("..")
    ('metal_nut', 'a%2Fb', '%2E%2E')
    """
    content = os.fsencode(category)
    name = quote(content, safe=" ()+,;=@!'~")
    if len(name) > LONGEST_NAME:
        name = f"{name[: LONGEST_NAME - 17]}-{hashlib.sha256(content).hexdigest()[:16]}"
    return name.replace(".", "%2E") if set(name) <= {"."} else name


@contextmanager
def with_settings(
    model: DiffusionAD, good: Sequence[Sample], **changes: Any
) -> Iterator[DiffusionAD]:
    """The same model, repairing images in another way: `mode`, `t_s`, `t_b`, `w`.

    What good images show is of one way to repair. So that ways can be compared, standardised maps
    are measured by what these show in each of them, the model's own included; without images they
    are plain. In the end the model is as it was.
    """
    kept = model.config, model.normality, model.threshold, model.provenance
    try:
        model._adopt(update(model.config, changes))
        if model.config.standardised:
            model.threshold = model.normality = None
            if good:
                model.measure_normality([s.path for s in spread_samples(good, normality.MOST)])
        yield model
    finally:
        model.config, model.normality, model.threshold, model.provenance = kept


def _settings(config: ModelConfig, train_config: TrainConfig) -> dict[str, Any]:
    values = {**to_dict(config), **to_dict(train_config)}
    return {name: value for name, value in values.items() if name not in OFTEN}


# ---- data -------------------------------------------------------------------------------------


def files_of(dataset: Dataset) -> str:
    """SHA-256 over the names and sizes of a dataset's files, and what each is taken for.

    Quick, and the same for a copy.
    """
    files = []
    for part, samples in (("train", dataset.train), ("test", dataset.test)):
        for sample in samples:
            name = relative_name(sample.path, dataset.root)
            files.append((f"{part} {sample.label} {sample.defect} {name}", sample.path))
            if sample.mask_path is not None:
                mask = relative_name(sample.mask_path, dataset.root)
                files.append((f"mask of {name}: {mask}", sample.mask_path))
    return size_fingerprint(sorted(files))


def spread_samples(samples: Sequence[Sample], count: int) -> list[Sample]:
    """Up to `count` samples, each kind of defect in turn, evenly over each kind."""
    kinds: dict[str, list[Sample]] = {}
    for sample in samples:
        kinds.setdefault(sample.defect, []).append(sample)
    shares = dict.fromkeys(kinds, 0)
    while sum(shares.values()) < min(count, len(samples)):
        for kind, members in kinds.items():
            if shares[kind] < len(members) and sum(shares.values()) < count:
                shares[kind] += 1
    chosen: list[Sample] = []
    for kind, share in shares.items():
        members = kinds[kind]
        chosen += [members[(2 * i + 1) * len(members) // (2 * share)] for i in range(share)]
    return chosen


# ---- numbers ----------------------------------------------------------------------------------


def mean(values: Sequence[float | None]) -> float | None:
    """Mean of the values that are defined; None where none is."""
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def spread(values: Sequence[float | None]) -> float | None:
    """Sample standard deviation; None where fewer than two values are defined."""
    known = [value for value in values if value is not None]
    return statistics.stdev(known) if len(known) > 1 else None
