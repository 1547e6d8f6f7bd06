"""Trainings and evaluations: what their manifests say, derived from what they left."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from clipgap.clip.checkpoints import read_content
from clipgap.clip.eval.api import PAIRED, SUMMARY, EvalResult, open_evaluation
from clipgap.clip.eval.subset_tables import (
    SUBSETS,
    SUBSETS_PAIRED,
    as_files,
    subset_tables,
)
from clipgap.clip.eval.subsets import NOWHERE
from clipgap.clip.eval.tables import (
    PAIRED_SCHEMA,
    SAMPLES_SCHEMA,
    SUMMARY_SCHEMA,
    as_table,
    column_of,
    compare,
    samples_schema,
    summarise,
)
from clipgap.clip.eval.work import SAMPLES
from clipgap.clip.train.api import KIND as TRAINING
from clipgap.clip.train.api import open_train
from clipgap.clip.train.logs import KEYS, LOSSES
from clipgap.clip.train.order import Position
from clipgap.clip.train.plan import PARAMETERS, TrainPlan, parameters_of, planned_again
from clipgap.errors import InputError, MissingDependency
from clipgap.files import lines
from clipgap.files.documents import MANIFEST, checksum
from clipgap.files.parquet import FileSum, read_table
from clipgap.files.remote import path_of
from clipgap.keep.lists import open_keep
from clipgap.packages import missing
from clipgap.shards.finding import find_shards
from clipgap.shards.problems import QUARANTINE
from clipgap.verify.checks import Asked, Checks, Problems, check_files, quarantined


def prove_evaluation(asked: Asked, checks: Checks) -> None:
    """Accuracies and differences follow from the table of samples; that one agrees with itself."""
    result = open_evaluation(asked.path)
    checks.make(
        "checksums", check_files, result.path, result.manifest["files"], "evaluation", checks.count
    )
    tables: dict[str, dict[str, pa.Table]] = {}
    if checks.all_good:
        checks.make("samples", _check_units, result, tables)
    if checks.all_good:
        checks.make("accuracies", _check_summary, result, tables)


def _check_units(
    result: EvalResult, tables: dict[str, dict[str, pa.Table]], problems: Problems
) -> str:
    """Every checkpoint has a table of every set, with as many samples as the manifest says."""
    manifest = result.manifest
    files, units = manifest["files"], manifest["units"]
    names = [checkpoint["name"] for checkpoint in manifest["checkpoints"]]
    expected, rows, problems_of = {SUMMARY, PAIRED}, 0, list[dict[str, Any]]()
    for data in manifest["sets"]:
        tables[data["name"]] = {}
        aside = units[f"{names[0]}/{data['name']}"]["problems"]
        problems_of += aside
        problems.differ(f"problems of {data['name']}", data["quarantined"], len(aside))
        problems.differ(f"classes of {data['name']}", len(data["keys"]), len(data["classes"]))
        for name in names:
            file = f"{SAMPLES}/{name}/{data['name']}.parquet"
            expected.add(file)
            table = read_table(result.path / file, FileSum(**files[file]))
            tables[data["name"]][name] = table
            rows += table.num_rows
            problems.differ(f"samples of {file}", data["samples"], table.num_rows)
            _check_samples(file, table, data, problems)
            unit = units[f"{name}/{data['name']}"]
            problems.differ(f"samples of unit {file}", unit["samples"], table.num_rows)
            problems.differ(f"sum of unit {file}", unit["file"], files[file])
            problems.differ(f"problems of unit {file}", unit["problems"], aside)
        groups = tables[data["name"]][names[0]]["group"].drop_null().unique().to_pylist()
        problems.differ(f"groups of {data['name']}", data["groups"], sorted(groups))
    wanted = sorted(f"{name}/{data['name']}" for data in manifest["sets"] for name in names)
    problems.differ("units", sorted(units), wanted)
    if manifest.get("pools") or any(data.get("subsets") for data in manifest["sets"]):
        expected |= {SUBSETS, SUBSETS_PAIRED}
    if problems_of:
        expected.add(QUARANTINE)
    problems.differ("images set aside", problems_of, quarantined(result.path, manifest))
    problems.differ("files", sorted(files), sorted(expected))
    problems.differ("kind", manifest["kind"], "eval")
    return f"{rows:,} samples in {len(wanted):,} tables"


def _check_samples(file: str, table: pa.Table, data: Mapping[str, Any], problems: Problems) -> None:
    """A sample is right if the prediction is the label, and then leads by its margin."""
    classes, subsets = len(data["classes"]), data.get("subsets", [])
    if not table.schema.equals(samples_schema([subset["name"] for subset in subsets])):
        problems.add(f"{file} has other columns than an evaluation writes")
        return
    held = {name: table[name].to_numpy() for name in SAMPLES_SCHEMA.names}
    right, margin = held["correct"], held["margin"]
    wrong = {
        "is out of order": held["row"] != np.arange(table.num_rows),
        "has a class that there is not": np.maximum(held["label"], held["prediction"]) >= classes,
        "has a class below 0": np.minimum(held["label"], held["prediction"]) < 0,
        "is called right, or wrong, without reason": right != (held["prediction"] == held["label"]),
        "is right, but not among the first five": right & ~held["correct5"],
        "has a margin that contradicts it": ~np.where(right, margin >= 0, margin <= 0),
    }
    for subset in subsets:
        column = column_of(subset["name"])
        within = table[column].fill_null(NOWHERE).to_numpy()
        inside, own = within != NOWHERE, np.isin(held["label"], subset["classes"])
        known = np.isin(held["prediction"], subset["classes"])  # likeliest of all: so of a subset
        wrong |= {
            f"is in subset {subset['name']}, whose class is not": inside & ~own,
            f"is not in subset {subset['name']}, which has all of its class": (
                ~inside & own if subset["keys_sha256"] is None else np.zeros(len(own), np.bool_)
            ),
            f"has a {column} that is no class of it": inside & ~np.isin(within, subset["classes"]),
            f"has a {column} that is less likely": (
                inside & known & (within != held["prediction"])
            ),
        }
    for words, rows in wrong.items():
        problems.at(np.flatnonzero(rows), f"{file}, row {{:,}}: {words}".format)


def _check_summary(
    result: EvalResult, tables: Mapping[str, Mapping[str, pa.Table]], problems: Problems
) -> str:
    """Both tables, made again of the samples, are what is there."""
    manifest, files = result.manifest, result.manifest["files"]
    summary: list[dict[str, Any]] = []
    paired: list[dict[str, Any]] = []
    subsets: list[dict[str, Any]] = []
    subsets_paired: list[dict[str, Any]] = []
    settings, pools = manifest["settings"], manifest.get("pools", {})
    for data in manifest["sets"]:
        of_set = tables[data["name"]]
        for name, table in of_set.items():
            summary += summarise(name, data["name"], len(data["classes"]), table)
        paired += compare(data["name"], of_set, settings["draws"], settings["seed"])
        of_subsets = subset_tables(data, of_set, pools, settings["draws"], settings["seed"])
        subsets += of_subsets[0]
        subsets_paired += of_subsets[1]
    for file, schema, rows in (
        (SUMMARY, SUMMARY_SCHEMA, summary),
        (PAIRED, PAIRED_SCHEMA, paired),
        *(as_files(subsets, subsets_paired) if SUBSETS in files else ()),
    ):
        stated = read_table(result.path / file, FileSum(**files[file])).to_pylist()
        again = as_table(rows, schema).to_pylist()
        if len(stated) != len(again):
            problems.add(f"{file} has {len(stated):,} rows, should have {len(again):,}")
        for row, (was, should) in enumerate(zip(stated, again, strict=False)):
            if was != should:
                problems.add(f"{file}, row {row:,}: is {was}, should be {should}")
    return f"{len(summary):,} accuracies and {len(paired):,} differences derived anew"


def prove_training(asked: Asked, checks: Checks) -> None:
    """The checkpoint is the one that was written, and losses and counts are those of the plan."""
    folder = asked.path
    manifest = open_train(folder).manifest
    files = manifest["files"]
    look = partial(check_files, owned=TRAINING.owned)
    checks.make("checksums", look, folder, files, "training run", checks.count)
    checks.make("counts", _check_counts, folder, manifest)
    checks.make("losses", _check_losses, folder, manifest)
    if checks.all_good:
        checks.make("plan", _check_plan, folder, manifest)


def _check_counts(folder: Path, manifest: Mapping[str, Any], problems: Problems) -> str:
    files, checkpoint, counts = manifest["files"], manifest["checkpoint"], manifest["counts"]
    plan = TrainPlan.of_json(manifest["plan"])
    problems.differ("kind", manifest["kind"], "train")
    sums = {key: value for key, value in checkpoint.items() if key != "path"}
    problems.differ("sum of the checkpoint", sums, files.get(checkpoint["path"]))
    name = f"checkpoints/epoch_{plan.epochs}.pt"
    problems.differ("name of the checkpoint", checkpoint["path"], name)
    found = {
        "samples": plan.samples,
        "reference": plan.reference_samples,
        "samples_seen": plan.epochs * plan.batches.samples,
        "missing": plan.missing,
        "steps": plan.steps,
        "quarantined": len(quarantined(folder, manifest)),
    }
    problems.differ("counts", {"missing": 0, **counts}, found)
    if plan.options.train_num_samples is None:
        problems.differ("samples", plan.samples, sum(shard.samples for shard in plan.shards))
    said = None if plan.keep is None else {"path": plan.keep, "manifest_sha256": plan.keep_sha256}
    problems.differ("keep-list", manifest["keep"], said)
    keep = plan.keep and path_of(plan.keep)
    is_there = keep and (keep / MANIFEST).exists()
    if keep and is_there and checksum(open_keep(keep).manifest) != plan.keep_sha256:
        problems.add(f"{keep} is no longer the keep-list that was trained on")
    return f"{counts['steps']:,} steps, {counts['samples_seen']:,} samples"


def _check_losses(folder: Path, manifest: Mapping[str, Any], problems: Problems) -> str:
    """The log rises to the last step, where it has the loss that the manifest states."""
    plan = TrainPlan.of_json(manifest["plan"])
    log = list(lines.read(folder / LOSSES, lambda record: record))
    if not log:
        problems.add(f"{LOSSES} is missing or empty")
        return ""
    sizes, done = plan.batches, 0
    for number, record in enumerate(log, start=1):
        before, done = done, record["epoch"] * sizes.batches + record["batch"] + 1
        seen = {"step": done // sizes.accum, "samples": done * sizes.world * sizes.batch}
        if not before < done or any(record[name] != value for name, value in seen.items()):
            problems.add(f"{LOSSES}, line {number:,}: counts other steps or samples than were done")
    problems.differ(f"steps of {LOSSES}", plan.steps, log[-1]["step"])
    loss = float(log[-1]["loss"])
    problems.differ("final loss", manifest["final_loss"], loss if isfinite(loss) else None)
    return f"{len(log):,} losses, the last is {loss:.6g}"


def _check_plan(folder: Path, manifest: Mapping[str, Any], problems: Problems) -> str:
    """The plan is what follows from its inputs; what the training noted is what it asks for."""
    plan = TrainPlan.of_json(manifest["plan"])
    problems.differ("plan: kind", manifest["plan"].get("kind"), "train")
    problems.differ("plan: device", plan.options.device, plan.device)
    problems.differ("plan: devices", plan.options.devices, None)
    problems.differ(f"plan: {KEYS}", plan.options.log_keys, (folder / KEYS).is_dir())
    try:
        if plan.options.objective == "clip":
            _check_parameters(folder, plan, problems)
        else:
            _check_classifier(folder, plan, problems)
        if (absent := _absent(plan)) is not None:
            return f"{absent} is not there, so the plan is as stated"
        again = planned_again(plan, folder)
    except MissingDependency as error:
        return f"as stated: {error}"
    stated, found = (dict(_leaves(one.to_json())) for one in (plan, again))
    for name in sorted(stated.keys() | found.keys()):
        problems.differ(f"plan: {name}", stated.get(name), found.get(name))
    return f"{len(found):,} values planned anew"


def _check_parameters(folder: Path, plan: TrainPlan, problems: Problems) -> None:
    noted = dict(
        line.partition(": ")[::2] for line in (folder / PARAMETERS).read_text().splitlines()
    )
    wanted = {
        **parameters_of(plan, folder),
        "world_size": str(plan.batches.world),
        "device": plan.device,
    }
    for name, value in wanted.items():
        said = noted.get(name, "nothing")
        if name == "device":
            said = said.partition(":")[0]
        if said != value:
            problems.add(f"{PARAMETERS}: {name} was {said}, by the plan {value}")


def _check_classifier(folder: Path, plan: TrainPlan, problems: Problems) -> None:
    """Each learning rate of the log, and what the checkpoint tells besides weights."""
    try:
        from clipgap.clip.train.checkpoints import FOLDER, name_of
        from clipgap.clip.train.classify import noted_by, noted_in, rate
    except ModuleNotFoundError as error:
        raise missing("torch") from error
    for number, record in enumerate(lines.read(folder / LOSSES, lambda record: record), start=1):
        if record["lr"] != (lr := rate(plan, record["step"] - 1)):
            problems.add(f"{LOSSES}, line {number:,}: lr was {record['lr']}, by the plan {lr}")
    path = folder / FOLDER / name_of(Position(plan.epochs))
    wanted = noted_by(plan)
    for name, said in noted_in(read_content(path, device="meta")).items():
        if said != wanted[name]:
            problems.add(f"{path.name}: {name} was {said}, by the plan {wanted[name]}")


def _absent(plan: TrainPlan) -> str | None:
    """An input of the plan that is no longer there; None if all of them are."""
    if not plan.is_folder:
        try:
            find_shards(plan.train_data)
        except InputError:
            return plan.train_data
    model = plan.options.model or ""
    files = [shard.name for shard in plan.shards if shard.reference]
    files += [] if plan.keep is None else [plan.keep]
    files += [said["path"] for said in (plan.captions, plan.labels) if said is not None]
    files += [model] if model.endswith(".json") else []
    return next((file for file in files if not path_of(file).exists()), None)


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Each value of a document, and its name in it."""
    if not isinstance(value, (dict, list, tuple)):
        yield name, value
        return
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
        yield from _leaves(inner, f"{name}.{key}" if name else str(key))
