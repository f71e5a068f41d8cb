"""The training loop of students and teachers: a folder with averaged weights; the same command goes on where it stopped.

The folder: `manifest.json` (renewed at each checkpoint) over the weights and `settings.json`; beside them, unsealed:
`state/` (checkpoints), `metrics.jsonl`, `tb/`, `samples/`. Of several processes rank 0 alone writes and speaks.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edgedit.core.artifact import MANIFEST, Manifest, Parent, check_output, create, open_artifact, read_manifest, seal
from edgedit.core.errors import ArtifactError, Interrupted, NumericsError, UsageError
from edgedit.core.files import held, write_atomic
from edgedit.core.say import Event, Say, silent
from edgedit.core.stop import stop_on_signals
from edgedit.learn.clock import Clock
from edgedit.learn.device import machine, torch_as_told
from edgedit.learn.folder import check_kind, check_same_loss, check_same_run
from edgedit.learn.learner import Learner, Stepped
from edgedit.learn.logs import Logs
from edgedit.learn.memory import memory_told
from edgedit.learn.ranks import Ranks
from edgedit.learn.settings import LearnSettings
from edgedit.learn.state import FOLDER, Progress, load_state, save_state

SETTINGS = "settings.json"
CHECKPOINT_S = 300
"""A checkpoint is written at least this often."""


@dataclass
class Run:
    """A run in its folder."""

    out: Path
    settings: LearnSettings
    steps: int
    parents: tuple[Parent, ...]
    kind: str
    ranks: Ranks
    say: Say
    _over: bool = field(default=False, init=False)
    """The last step is taken, and all that it tells is written."""
    _pieces: int | None = field(default=None, init=False)
    """Rows that were taken at a time in the last batch that was divided, in this start or an earlier one."""

    def __post_init__(self) -> None:
        if not self.ranks.main:
            self.say = silent

    def learn(self, make: Callable[[], Learner], *, restart: bool = False) -> Manifest:
        """From whatever the folder holds to a finished run; `make` builds the untrained learner.

        Raises:
            UsageError, ArtifactError, OutputError: the folder holds something else, or no readable checkpoint.
            NumericsError: a loss that is not finite; the last good checkpoint is kept.
            MissingError: memory does not hold the run; the last checkpoint is kept.
            Interrupted: Ctrl-C or SIGTERM, after saving.
        """
        self.ranks.rows(self.settings.batch)
        before, finished = self.ranks.lead(lambda: self.look(restart))
        if finished is not None:
            return finished
        with ExitStack() as stack:
            if self.ranks.main:
                stack.enter_context(held(self.out, "training in"))
            stack.enter_context(torch_as_told(self.settings))
            stack.enter_context(memory_told("this run", "a smaller model, another --device, or more processes under torchrun; the same "
                                                        "command goes on from the last checkpoint"))
            learner = make()
            if before is None:
                self.ranks.lead(lambda: self.begin(learner))
                if self.ranks.main:
                    stack.enter_context(held(self.out, "training in"))
            else:
                check_same_loss(self.out, before.info["loss"], learner.loss_facts())
                self._pieces = before.info.get("micro_batch")
            learner.say = self.say
            return self.go(learner, published=before.info["step"] if before is not None else 0)

    def look(self, restart: bool) -> tuple[Manifest | None, Manifest | None]:
        """(manifest of a run to go on with, manifest of this very run when it is complete and undamaged).

        UsageError if the folder holds another run.
        """
        check_output(self.out)
        before = read_manifest(self.out) if (self.out / MANIFEST).is_file() else None
        check_kind(self.out, before, self.kind)
        if before is None or restart:
            return None, None
        check_same_run(self.out, before, self.settings, self.parents, self.steps)
        if not before.info["complete"] or (before.info["step"] != self.steps and self.spent(before.info["wall_s"]) < 1):
            return before, None
        try:
            return before, open_artifact(self.out, self.kind).manifest
        except ArtifactError as error:
            self.say(Event(f"{error.what}; it is written again from the checkpoint", level="warning"))
            return before, None

    def begin(self, learner: Learner) -> None:
        """Make the folder, with the untrained weights in it, so that a run killed early is recognised as one."""
        with create(self.out, self.kind) as draft:
            learner.write(draft.path / learner.weights, Progress())
            draft.write_json(SETTINGS, self.settings.model_dump(mode="json"))
            draft.parents, draft.spec, draft.info = list(self.parents), learner.spec(), self.info(learner, Progress())
            draft.settings = self.settings.model_dump(mode="json")

    def go(self, learner: Learner, published: int) -> Manifest:
        """From the last checkpoint to the end; `published` is the step of the weights in the folder."""
        progress = self.resume(learner, published)
        start, s = progress.step, self.settings
        clock, spent = Clock(progress), self.spent(progress.wall_s)
        with ExitStack() as stack:
            stop = stack.enter_context(stop_on_signals(deferred=True))
            logs = stack.enter_context(Logs(self.out, start, self.say)) if self.ranks.main else None
            window: list[Stepped] = []
            manifest: Manifest | None = None
            for step, batch in enumerate(stack.enter_context(learner.batches(start, self.steps if spent < 1 else start)), start):
                lr = s.optimizer.lr_at(step, self.steps, spent)
                done = step + 1
                last = done == self.steps or spent >= 1
                log = done % s.log_every == 0 or last
                stepped = learner.step(batch, step, lr, want_norm=log, stop=bool(stop.reason), save=clock.since_save() > CHECKPOINT_S,
                                       spent=self.spent(clock.wall_s()))
                window.append(stepped)
                progress.step = done
                self._pieces, self._over = learner.micro_batch or self._pieces, last
                save = done % s.checkpoint_every == 0 or last or stepped.stop or stepped.save
                if log or save:
                    self.close_window(window, progress)
                if log and stepped.norm is not None:
                    values = {**close_line(progress), "lr": lr, "images_per_s": clock.rate(done, s.batch),
                              "grad_norm": float(stepped.norm), "wall_s": clock.wall_s()}
                    if logs is not None:
                        logs.write(done, values)
                if log or clock.time_to_say():
                    total = done if last else self.expected(done, start, clock)
                    self.say(Event("train", done, total, start, "steps", {"loss": progress.last_loss, "lr": lr}))
                if self.ranks.main and s.sample_every and (done % s.sample_every == 0 or last):
                    learner.sample(self.out, done)
                if save:
                    progress.wall_s = clock.wall_s()
                    manifest = self.ranks.lead(lambda: self.save(learner, progress))
                    clock.saved()
                if last:
                    break
                if stepped.stop:
                    raise Interrupted(f"stopped by {stop.reason or 'a signal'} after step {done} of {self.steps}; "
                                      f"everything is saved in {self.out}", fix="run the same command again to go on")
                spent = self.spent(clock.wall_s()) if self.ranks.world == 1 else stepped.spent
            if manifest is None:
                manifest = self.ranks.lead(lambda: self.finish(learner, progress, logs))
        return manifest

    def finish(self, learner: Learner, progress: Progress, logs: Logs | None) -> Manifest:
        """End a run that has no step left: it was stopped in the one that used up its minutes, or its weights were damaged.

        A line of metrics that is still open is written, without the rate and the gradients' norm, and the last grid is drawn.
        """
        self._over = True
        still_open = bool(progress.terms)
        if still_open:
            values = close_line(progress)
            if logs is not None:
                logs.write(progress.step, {**values, "wall_s": progress.wall_s})
        if self.settings.sample_every and progress.step:
            learner.sample(self.out, progress.step)
        return self.save(learner, progress) if still_open else self.publish(learner, progress)

    def spent(self, wall_s: float) -> float:
        """Share of the minutes that `wall_s` seconds of training are; 0 without such a budget."""
        return wall_s / (60 * self.settings.minutes) if self.settings.minutes is not None else 0.0

    def expected(self, done: int, start: int, clock: Clock) -> int:
        """Steps at the end of the run, by its pace since this start where minutes will end it."""
        spent = self.spent(clock.wall_s())
        if not spent:
            return self.steps
        left = (clock.wall_s() / spent - clock.wall_s()) * (done - start) / clock.since_start()
        return min(self.steps, done + max(1, round(left)))

    def resume(self, learner: Learner, published: int) -> Progress:
        """Bring the learner to the last good checkpoint; ArtifactError if trained weights' checkpoints are gone."""
        tensors: dict[str, Tensor] | None = None

        def find() -> Progress | None:
            nonlocal tensors
            found = load_state(self.out, self.say)
            if found is None:
                if published:
                    raise ArtifactError(f"{self.out} holds the weights of step {published}, and no checkpoint to go on from",
                                        fix=f"start from them with --init {self.out} and another --out, or anew with --restart")
                return None
            tensors, progress = found
            if progress.step > self.steps:
                raise UsageError(f"{self.out} was trained for {progress.step} steps already", saw=f"{self.steps} steps asked for",
                                 fix="ask for more steps, begin anew with --restart, or choose another --out")
            return progress

        progress = self.ranks.lead(find)
        if progress is None:
            return Progress()
        learner.load(self.ranks.share(tensors, learner.device))
        if progress.step < self.steps and (spent := self.spent(progress.wall_s)) < 1:
            used = f", {spent:.0%} of {self.settings.minutes:g} minutes used" if spent else ""
            self.say(Event(f"going on from step {progress.step} of {self.steps}{used}"))
        return progress

    def close_window(self, window: list[Stepped], progress: Progress) -> None:
        """Read losses and logged terms of the last steps from the device (which waits for it), and check them."""
        if not window:
            return
        losses = torch.stack([w.loss for w in window]).double()
        bad = torch.nonzero(~torch.isfinite(losses)).flatten().tolist()
        if bad:
            step = progress.step - len(window) + bad[0] + 1
            kept = sorted(p.name for p in (self.out / FOLDER).glob("step-???????"))
            raise NumericsError(f"the loss is not finite at step {step}",
                                saw=f"{losses[bad[0]].item()}, on batch {step - 1} of seed {self.settings.seed}",
                                fix=f"the last good checkpoint is {kept[-1] if kept else 'the start'}, in {self.out}; train on "
                                    "from its weights (--init) in another --out with a lower optimizer.lr or with "
                                    "optimizer.grad_clip=1.0")
        progress.terms.setdefault("loss", []).extend(losses.tolist())
        for name in window[-1].logs:
            progress.terms.setdefault(name, []).extend(torch.stack([w.logs[name].double() for w in window]).tolist())
        window.clear()

    def save(self, learner: Learner, progress: Progress) -> Manifest:
        """Checkpoint first, then the weights that readers see."""
        save_state(self.out, learner.tensors(), progress, self.settings.keep_last)
        return self.publish(learner, progress)

    def publish(self, learner: Learner, progress: Progress) -> Manifest:
        """Write the averaged weights and the manifest over them."""
        settings = self.settings.model_dump(mode="json")
        learner.write(self.out / learner.weights, progress)
        write_atomic(self.out / SETTINGS, json.dumps(settings, indent=1) + "\n")
        return seal(self.out, self.kind, [learner.weights, SETTINGS], parents=self.parents, info=self.info(learner, progress),
                    settings=settings, spec=learner.spec())

    def info(self, learner: Learner, progress: Progress) -> dict[str, Any]:
        """Facts for the manifest."""
        ended = None if not self._over else "steps" if progress.step == self.steps else "minutes"
        pieces = {"micro_batch": self._pieces} if self._pieces is not None else {}
        return {**learner.info(progress), "loss": learner.loss_facts(), "final_loss": progress.last_loss, "step": progress.step,
                "steps": self.steps, "images_seen": progress.step * self.settings.batch, "complete": ended is not None, "ended_by": ended,
                "wall_s": progress.wall_s, "ema_decay": self.settings.ema_decay, "precision": self.settings.precision,
                "device": learner.device.type, "machine": machine(learner.device), "processes": self.ranks.world,
                **pieces}


def close_line(progress: Progress) -> dict[str, float]:
    """Means of the open window of metrics, which begins anew."""
    terms = {name: sum(values) / len(values) for name, values in progress.terms.items()}
    progress.last_loss, progress.terms = terms["loss"], {}
    return terms
