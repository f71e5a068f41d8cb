"""The training loop: pairs in, a folder with the student's averaged weights out; the same command goes on where it stopped.

The folder: `manifest.json` (kind "student", renewed at each checkpoint) over `student.safetensors` and `settings.json`;
beside them, unsealed: `state/` (checkpoints), `metrics.jsonl`, `tb/`, `samples/`.
"""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from edgedit.core.artifact import MANIFEST, Manifest, Parent, check_output, create, open_artifact, read_manifest, seal
from edgedit.core.errors import ArtifactError, Interrupted, NumericsError, UsageError
from edgedit.core.files import held, write_atomic
from edgedit.core.pairset import PairSet
from edgedit.core.say import Event, Say, silent
from edgedit.core.spec import DiTSpec
from edgedit.core.stop import stop_on_signals
from edgedit.distill.clock import Clock
from edgedit.distill.data import Batches
from edgedit.distill.folder import check_kind, check_same_loss, check_same_run, load_init
from edgedit.distill.logs import Logs, save_samples
from edgedit.distill.settings import TrainSettings
from edgedit.distill.state import FOLDER, Progress, load_state, save_state
from edgedit.distill.trainer import Trainer, pick_device, torch_as_told
from edgedit.model.checkpoint import KIND, WEIGHTS, save_weights

SETTINGS = "settings.json"
CHECKPOINT_S = 300
"""A checkpoint is written at least this often."""


def train(pairs: str | Path, out: str | Path, settings: TrainSettings, *, say: Say = silent, init: str | Path | None = None,
          restart: bool = False) -> Manifest:
    """Train a student on noise–image pairs.

    Calling it again goes on from the last checkpoint, exactly on a CPU; with more `steps` or `epochs` it trains further; a
    finished run returns at once.

    Args:
        pairs: folder of kind "pairs".
        out: folder to write or to go on in.
        settings: all choices; see `TrainSettings`.
        say: told of progress in steps, about twice a second.
        init: folder of another student, or its `.safetensors`, whose averaged weights are the start.
        restart: forget what `out` holds.

    Returns:
        The manifest of `out`, kind "student", with `info["complete"]` true.

    Raises:
        UsageError: settings that do not fit the pairs, the device, or the run in `out`.
        ArtifactError: damaged pairs, or no readable checkpoint.
        MissingError: weights of LPIPS or a device that cannot be had.
        NumericsError: a loss that is not finite; the last good checkpoint is kept.
        OutputError: the folder cannot be written; the last checkpoint is kept.
        Interrupted: Ctrl-C or SIGTERM, after saving.
    """
    out = Path(out)
    check_output(out)
    data = PairSet.open(pairs)
    spec = settings.model.spec(data.shape, data.classes)
    weights, parent = load_init(init, spec) if init is not None else (None, None)
    run = Run(out, data, spec, settings, tuple(p for p in (data.artifact.as_parent("pairs"), parent) if p), say)
    device = pick_device(settings)
    before = read_manifest(out) if (out / MANIFEST).is_file() else None
    check_kind(out, before)
    fresh = restart or before is None
    if before is not None and not fresh and (finished := run.finished(before)):
        return finished
    with ExitStack() as stack:
        stack.enter_context(held(out, "training in"))
        stack.enter_context(torch_as_told(settings))
        trainer = Trainer(spec, settings, device, weights)
        if before is None or fresh:
            run.begin(trainer)
            stack.enter_context(held(out, "training in"))
            return run.go(trainer, published=0)
        check_same_loss(out, before, trainer.setup.facts())
        return run.go(trainer, published=before.info["step"])


@dataclass
class Run:
    """A run in its folder. `train` makes one; tests may look inside."""

    out: Path
    data: PairSet
    spec: DiTSpec
    settings: TrainSettings
    parents: tuple[Parent, ...]
    say: Say

    @property
    def steps(self) -> int:
        """Steps of the whole run."""
        return self.settings.total_steps(len(self.data))

    def finished(self, manifest: Manifest) -> Manifest | None:
        """The manifest, if the folder holds this very run, complete and undamaged. UsageError if it holds another run."""
        check_same_run(self.out, manifest, self.settings, self.parents, self.steps)
        if not manifest.info["complete"] or manifest.info["step"] != self.steps:
            return None
        try:
            return open_artifact(self.out, KIND).manifest
        except ArtifactError as error:
            self.say(Event(f"{error.what}; it is written again from the checkpoint", level="warning"))
            return None

    def begin(self, trainer: Trainer) -> None:
        """Make the folder, with the untrained student in it, so that a run killed early is recognised as one."""
        info = self.info(trainer, Progress())
        with create(self.out, KIND) as draft:
            save_weights(draft.path / WEIGHTS, self.spec, trainer.ema.model.state_dict(), info)
            draft.write_json(SETTINGS, self.settings.model_dump(mode="json"))
            draft.parents, draft.spec, draft.info = list(self.parents), self.spec.to_dict(), info
            draft.settings = self.settings.model_dump(mode="json")

    def go(self, trainer: Trainer, published: int) -> Manifest:
        """From the last checkpoint to the end; `published` is the step of the student in the folder."""
        progress = self.resume(trainer, published)
        start, steps, s = progress.step, self.steps, self.settings
        cuda = trainer.device.type == "cuda"
        clock = Clock(progress)
        manifest: Manifest | None = None
        with stop_on_signals(deferred=True) as stop, Logs(self.out, start, self.say) as logs, Batches(
                self.data, batch=s.batch, seed=s.seed, label_dropout=s.label_dropout, start=start, stop=steps,
                loaders=s.loaders or (4 if cuda else 1), pin=cuda) as batches:
            window: list[torch.Tensor] = []
            for batch in batches:
                lr = s.optimizer.lr_at(batch.step, steps)
                done = batch.step + 1
                log = done % s.log_every == 0 or done == steps
                loss, norm, extra = trainer.step(batch.to(trainer.device), lr, want_norm=log)
                asked = stop.reason
                window.append(loss)
                progress.step = done
                save = done % s.checkpoint_every == 0 or done == steps or bool(asked) or clock.since_save() > CHECKPOINT_S
                if log or save:
                    self.close_window(window, progress)
                if log and norm is not None:
                    progress.last_loss = sum(progress.losses) / len(progress.losses)
                    values = {"loss": progress.last_loss, "lr": lr, "images_per_s": clock.rate(done, s.batch),
                              "grad_norm": float(norm), "wall_s": clock.wall_s(), **{k: float(v) for k, v in extra.items()}}
                    progress.losses = []
                    logs.write(done, values)
                if log or clock.time_to_say():
                    self.say(Event("train", done, steps, start, "steps", {"loss": progress.last_loss, "lr": lr}))
                if s.sample_every and (done % s.sample_every == 0 or done == steps):
                    save_samples(self.out, trainer.ema.model, self.data.class_names, done, s.sample_guidance)
                if save:
                    progress.wall_s = clock.wall_s()
                    manifest = self.save(trainer, progress)
                    clock.saved()
                if asked and done < steps:
                    raise Interrupted(f"stopped by {asked} after step {done} of {steps}; everything is saved in {self.out}",
                                      fix="run the same command again to go on")
        return manifest or self.publish(trainer, progress)

    def resume(self, trainer: Trainer, published: int) -> Progress:
        """Bring the trainer to the last good checkpoint; ArtifactError if a trained student's checkpoints are gone."""
        found = load_state(self.out, self.say)
        if found is None and published:
            raise ArtifactError(f"{self.out} holds a student of step {published}, and no checkpoint to go on from",
                                fix=f"start from its weights with --init {self.out} and another --out, or anew with --restart")
        if found is None:
            return Progress()
        tensors, progress = found
        if progress.step > self.steps:
            raise UsageError(f"{self.out} was trained for {progress.step} steps already", saw=f"{self.steps} steps asked for",
                             fix="ask for more steps, begin anew with --restart, or choose another --out")
        trainer.load(tensors)
        if progress.step < self.steps:
            self.say(Event(f"going on from step {progress.step} of {self.steps}"))
        return progress

    def close_window(self, window: list[torch.Tensor], progress: Progress) -> None:
        """Read the losses of the last steps from the device (which waits for it) and check them."""
        if not window:
            return
        losses = torch.stack(window).double()
        bad = torch.nonzero(~torch.isfinite(losses)).flatten().tolist()
        if bad:
            step = progress.step - len(window) + bad[0] + 1
            kept = sorted(p.name for p in (self.out / FOLDER).glob("step-???????"))
            raise NumericsError(f"the loss is not finite at step {step}", saw=f"{losses[bad[0]].item()}",
                                fix=f"the last good checkpoint is {kept[-1] if kept else 'the start'}, in {self.out}; train on "
                                    "from its weights (--init) in another --out with a lower optimizer.lr or with "
                                    "optimizer.grad_clip=1.0")
        progress.losses += losses.tolist()
        window.clear()

    def save(self, trainer: Trainer, progress: Progress) -> Manifest:
        """Checkpoint first, then the student that readers see."""
        save_state(self.out, trainer.tensors(), progress, self.settings.keep_last)
        return self.publish(trainer, progress)

    def publish(self, trainer: Trainer, progress: Progress) -> Manifest:
        """Write the averaged weights and the manifest over them."""
        info, settings, spec = self.info(trainer, progress), self.settings.model_dump(mode="json"), self.spec.to_dict()
        save_weights(self.out / WEIGHTS, self.spec, trainer.ema.model.state_dict(), info)
        write_atomic(self.out / SETTINGS, json.dumps(settings, indent=1) + "\n")
        return seal(self.out, KIND, [WEIGHTS, SETTINGS], parents=self.parents, info=info, settings=settings, spec=spec)

    def info(self, trainer: Trainer, progress: Progress) -> dict[str, Any]:
        """Facts for the manifest."""
        facts = self.data.info
        return {
            "label": self.spec.label, "class_names": self.data.class_names,
            "data": {k: facts[k] for k in ("label", "teacher", "sampler", "count") if k in facts},
            "setup": self.settings.setup, "loss": trainer.setup.facts(), "final_loss": progress.last_loss,
            "step": progress.step, "steps": self.steps, "images_seen": progress.step * self.settings.batch,
            "complete": progress.step == self.steps, "wall_s": progress.wall_s, "ema_decay": self.settings.ema_decay,
            "label_dropout": self.settings.label_dropout, "precision": self.settings.precision, "device": trainer.device.type,
            "parameters": self.spec.parameters, "deployed_parameters": self.spec.deployed_parameters,
        }
