"""The verb `evaluate`: opens students, bundles, pairs, data sets and folders as sources of images for the stage."""

from __future__ import annotations

import re
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from edgedit.cli.console import Console
from edgedit.cli.host import need_host
from edgedit.cli.options import Config, Json, Provider, Sets, Threads
from edgedit.core.errors import UsageError
from edgedit.core.say import Event

_SET = re.compile(r"(cifar10|digits|data)-(train|test)")
_KNOWN = "a folder made by train, export or pairs, a folder of images, an .npz, or one of cifar10-train, cifar10-test, digits-train, " \
         "digits-test, data-train, data-test"


def evaluate(
    source: Annotated[str | None, typer.Argument(metavar="SOURCE", help="A student, a bundle, pairs, a folder of images, an .npz of "
                                                 "images, or cifar10-test, cifar10-train … (real images, scored the same way).")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder to write. The same command again resumes, or returns at once.")] = None,
    metrics: Annotated[str | None, typer.Option(help="Of fid, is, kid, pr (precision and recall), accuracy, spread, nearest; fid,is by "
                                                      "default.")] = None,
    reference: Annotated[str, typer.Option(help="What images should be like: cifar10-train, cifar10-test, a folder, pairs, or an .npz of "
                                                "statistics (mu, sigma).")] = "cifar10-train",
    count: Annotated[int | None, typer.Option(min=2, help="Images of the source; default 50,000 made ones, all stored ones.")] = None,
    reference_count: Annotated[int | None, typer.Option(min=2, help="Images of the reference; all by default.")] = None,
    data: Annotated[str | None, typer.Option(help="Where CIFAR-10 lies when it is not to be downloaded; or another data set, for "
                                                  "data-train and data-test.")] = None,
    extractor_weights: Annotated[Path | None, typer.Option(help="Inception weights; the published file by default, downloaded "
                                                                "once.")] = None,
    tap: Annotated[str | None, typer.Option(help="Layer of the extractor: 2048 (FID), 768, 192, 64.")] = None,
    classifier: Annotated[Path | None, typer.Option(help="Weights of a CIFAR ResNet, for accuracy.")] = None,
    guidance: Annotated[float | None, typer.Option(min=0, help="Guidance of a student (default 1.5, none after setup guided); a "
                                                               "bundle has its own.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the noise of made images.")] = 0,
    start: Annotated[int, typer.Option(min=0, help="Index of the first made image.")] = 0,
    labels: Annotated[str, typer.Option(help="Classes of made images: balanced (in turn) or random.")] = "balanced",
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1 …")] = None,
    provider: Provider = None,
    threads: Threads = None,
    self_test: Annotated[bool, typer.Option("--self-test", help="Inception Score of CIFAR-10 train by the published extractor: it "
                                                                "must be 11.2368.")] = False,
    sets: Sets = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Score images: FID, Inception Score, KID, precision and recall, class accuracy, spread, nearness to training images.

    Images are made as they are needed and nothing is written but the record. A number is called FID only with the published
    extractor and 50,000 images; with fewer it is FID-5k and so on, at another layer FID-768, by other weights never FID. The
    record names all that decides it: reference and split, counts, hashes, seed, labels, guidance, resize, quantisation.
    torchrun --nproc-per-node 4 -m edgedit evaluate … shares the work.

    Example: edgedit evaluate runs/student --metrics fid,is --reference cifar10-train --count 50000 --out runs/evaluation
    """
    need_host("torch", "torch_fidelity", "safetensors")
    from edgedit.learn.ranks import joined

    with joined(device or "auto") as ranks, Console(json) as ui, ExitStack() as stack:
        asked = None if metrics is None else tuple(m.strip() for m in metrics.split(",") if m.strip())
        options = {"metrics": asked, "count": count, "reference_count": reference_count, "tap": tap, "device": device,
                   "extractor_weights": str(extractor_weights) if extractor_weights else None,
                   "classifier": str(classifier) if classifier else None}
        if self_test:
            body = _self_test(data, out or Path("runs/self-test"), _settings({**options, "metrics": ("is",)}, sets, config), ui, ranks)
        else:
            if source is None or out is None:
                raise UsageError("evaluate needs a SOURCE and --out", fix="edgedit evaluate runs/student --out runs/evaluation")
            make = _Make(data, count, seed, start, labels, guidance, device or "auto", provider, threads, ranks, stack, ui)
            body = _evaluate(make, source, reference, out, _settings(options, sets, config))
        if ranks.main:
            ui.done("\n".join(_lines(body)), following=None if self_test else f"edgedit show {out}", data=body)
    if self_test and not body["ok"]:
        raise typer.Exit(1)


class _Make:
    """How sources are opened: the options of made images, and where data lies."""

    def __init__(self, data: str | None, count: int | None, seed: int, start: int, labels: str, guidance: float | None, device: str,
                 provider: str | None, threads: int | None, ranks: Any, stack: ExitStack, say: Any) -> None:
        if labels not in ("balanced", "random"):
            raise UsageError("labels are balanced or random", saw=labels)
        self.data, self.guidance, self.device, self.provider, self.threads = data, guidance, device, provider, threads
        self.ranks, self.stack, self.say = ranks, stack, say
        self.noise = {"count": count or 50_000, "seed": seed, "start": start, "random_labels": labels == "random"}

    def stored(self, text: str) -> Any:
        """A source of stored images: a data set's split, an .npz, pairs, or a folder."""
        from edgedit.core.artifact import MANIFEST
        from edgedit.core.pairset import PairSet
        from edgedit.evaluate.sources import CIFAR10, FolderSource, PairSource, npz_source

        path = Path(text).expanduser()
        if match := _SET.fullmatch(text):
            return _data_set(match[1], match[2], self.data, self.say, self.ranks)
        if path.suffix == ".npz" and path.is_file():
            return npz_source(path, CIFAR10)
        if (path / MANIFEST).is_file():
            return PairSource(PairSet.open(path))
        if not path.is_dir():
            raise UsageError(f"'{text}' is not a source of images", fix=_KNOWN)
        return FolderSource(path, class_names=CIFAR10)

    def held_out(self, reference: str) -> Any:
        """The test split that belongs to a training split; None where there is none, which is said."""
        match = _SET.fullmatch(reference)
        if match and match[2] == "train":
            try:
                return self.stored(f"{match[1]}-test")
            except UsageError as error:
                self.say(Event(f"nearest is not compared with held-out images: {error.what}", level="warning"))
        return None

    def source(self, text: str) -> Any:
        """Any source: stored images, or the maker in a folder of train or export."""
        from edgedit.core.artifact import MANIFEST, read_manifest

        kind = read_manifest(Path(text)).kind if (Path(text) / MANIFEST).is_file() else None
        if kind == "student":
            return self._student(Path(text))
        if kind == "bundle":
            return self._bundle(Path(text))
        if kind not in (None, "pairs", "images"):
            fix = f"edgedit pairs --teacher {text} --count 2000 --out FOLDER makes images of it" if kind == "teacher" else _KNOWN
            raise UsageError(f"{text} is of kind '{kind}', which is no source of images", fix=fix)
        return self.stored(text)

    def _student(self, path: Path) -> Any:
        import torch

        from edgedit.evaluate.generated import GeneratedSource
        from edgedit.learn.device import find_device
        from edgedit.model.checkpoint import load_student, usual_guidance
        from edgedit.model.runtime import TorchRuntime

        model, artifact, info = load_student(path)
        if self.threads:
            torch.set_num_threads(self.threads)
        scale = usual_guidance(info) if self.guidance is None else self.guidance
        runtime = TorchRuntime(model, scale, device=str(find_device(self.device, self.ranks)))
        spec = model.spec
        facts = {"made_by": "student", "digest": artifact.manifest.digest, "design": spec.label, "guidance_scale": scale,
                 "runtime": "torch"}
        names = tuple(info.get("class_names") or map(str, range(spec.classes)))
        return GeneratedSource(str(info.get("label", spec.label)), runtime, (spec.channels, spec.image, spec.image), names, facts=facts,
                               parents=(artifact.as_parent("student"),), **self.noise)  # type: ignore[arg-type]

    def _bundle(self, path: Path) -> Any:
        from edgedit.device.bundle import Bundle
        from edgedit.device.runtime import open_runtime
        from edgedit.evaluate.generated import GeneratedSource

        bundle = Bundle.open(path)
        if self.guidance is not None and self.guidance != bundle.guidance_scale:
            raise UsageError("a bundle's guidance is part of its graph", saw=f"{self.guidance}; {path} has {bundle.guidance_scale}",
                             fix="edgedit export STUDENT --guidance …")
        runtime = open_runtime(bundle, provider=self.provider, threads=self.threads)
        self.stack.callback(runtime.close)
        facts = {"made_by": "bundle", "digest": bundle.digest, "design": bundle.spec.label, "guidance_scale": bundle.guidance_scale,
                 "precision": bundle.precision, "runtime": runtime.name, "provider": runtime.provider}
        return GeneratedSource(f"{bundle.spec.label} {bundle.precision}", runtime, bundle.noise_shape, bundle.class_names, facts=facts,
                               parents=(bundle.artifact.as_parent("bundle"),), **self.noise)  # type: ignore[arg-type]


def _data_set(name: str, split: str, data: str | None, say: Any, ranks: Any) -> Any:
    """A split of a data set; where it has to be downloaded, one process does that and the others find it."""
    from edgedit.evaluate.sources import ArraySource
    from edgedit.teach.data import load_data

    if name == "data" and data is None:
        raise UsageError(f"data-{split} needs --data")
    where = data if data is not None and name != "digits" else name
    if where == "cifar10" and ranks.world > 1:
        ranks.lead(lambda: len(load_data(where, split=split, say=say)))
    made = load_data(where, split=split, say=say)
    if name != "data" and made.name != name:
        raise UsageError(f"--data is not {name}", saw=made.name, fix=f"data-{split} names it")
    return ArraySource(f"{made.name}-{split}", made.images, made.labels, made.class_names,
                       {"name": made.name, "split": split, "sha256": made.sha256})


def _settings(options: dict[str, Any], sets: list[str] | None, config: Path | None) -> Any:
    from edgedit.core.errors import did_you_mean
    from edgedit.core.settings import resolve
    from edgedit.evaluate.settings import METRICS, EvaluateSettings

    if unknown := [m for m in options["metrics"] or () if m not in METRICS]:
        raise UsageError(f"unknown metric '{unknown[0]}'", fix=did_you_mean(unknown[0], METRICS))
    return resolve(EvaluateSettings, config=config, sets=sets or (), options=options)


def _evaluate(make: _Make, source: str, reference: str, out: Path, settings: Any) -> dict[str, Any]:
    import json

    import torch

    from edgedit.core.cache import cache_folder
    from edgedit.evaluate.settings import AGAINST
    from edgedit.evaluate.stage import EVALUATION_FILE
    from edgedit.evaluate.stage import evaluate as evaluate_stage
    from edgedit.evaluate.statistics import holds_statistics, load_statistics

    if make.threads:
        torch.set_num_threads(make.threads)
    images = make.source(source)
    against = held_out = None
    if settings.wants(*AGAINST):
        file = Path(reference).expanduser()
        against = load_statistics(file) if holds_statistics(file) else make.stored(reference)
        held_out = make.held_out(reference) if settings.wants("nearest") else None
    manifest = evaluate_stage(images, against, out, settings, held_out=held_out, cache=cache_folder(), say=make.say, ranks=make.ranks)
    if not make.ranks.main:
        return {}
    return {"out": str(out), "digest": manifest.digest, **json.loads((out / EVALUATION_FILE).read_bytes())}


def _self_test(data: str | None, out: Path, settings: Any, say: Any, ranks: Any) -> dict[str, Any]:
    from edgedit.evaluate.selftest import EXPECTED, TOLERANCE, self_test

    found = self_test(_data_set("cifar10", "train", data, say, ranks), out, settings, say=say, ranks=ranks)
    return {"out": str(out), "inception_score": found.value, "expected": EXPECTED, "tolerance": TOLERANCE, "ok": found.ok}


def _lines(body: dict[str, Any]) -> list[str]:
    if "expected" in body:
        verdict = "as it should be" if body["ok"] else "NOT as it should be: numbers of this installation are not comparable"
        return [f"Inception Score of CIFAR-10 train {body['inception_score']:.4f}, torch-fidelity states {body['expected']:.4f}: {verdict}"]
    made_of = " ".join(str(body["source"][k]) for k in ("name", "split") if k in body["source"])
    by = f", protocol {body['protocol']}" if body["protocol"] else ""
    lines = [f"{body['out']}: {made_of}, {body['source']['used']:,} images{by}"]
    for m in body["metrics"]:
        spread = "" if m["uncertainty"] is None else f" ± {m['uncertainty']:.4g} ({m['uncertainty_of']})"
        lines.append(f"  {m['name']:<18} {m['value']:.6g}{spread}")
        shown = {k: v for k, v in m["details"].items() if k in ("copies", "nearer_than_real", "exact_copies", "held_out_median")}
        if shown:
            lines.append("    " + ", ".join(f"{k.replace('_', ' ')} {v:.4g}" for k, v in shown.items()))
    return lines
