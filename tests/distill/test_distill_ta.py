from __future__ import annotations

import signal
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from distill_kit import tiny, write_pairs
from setup_kit import gradients, newest, same_runs, tiny_trainer

from edgedit.core.artifact import open_artifact, seal
from edgedit.core.errors import ArtifactError, Interrupted, UsageError
from edgedit.core.settings import resolve
from edgedit.core.spec import DiTSpec
from edgedit.distill import TrainSettings, preset, presets, train
from edgedit.learn.logs import METRICS, read_metrics
from edgedit.model.checkpoint import load_student
from edgedit.model.dit import unpatchify

ROWS = {1: (1, 0, 0), 2: (0, 1, 0), 3: (0, 1, 1), 4: (1, 1, 1)}  # Table 3: weights of teacher, assistant, features
TERMS = ("teacher", "assistant", "features")
FEATURES = ["lpips_decoded", "mse", "lpips_style"]


@pytest.fixture(scope="module")
def assistant(pairs, tmp_path_factory) -> Path:
    """A wider and deeper student that has learned a little."""
    out = tmp_path_factory.mktemp("assistant") / "student"
    train(pairs, out, tiny(model__depth=3, model__width=24, model__heads=3, steps=100, checkpoint_every=100))
    return out


def ta(assistant: Path | None, row: int = 4, **options):
    weights = {f"setup__lambda{k}": w for k, w in enumerate(ROWS[row])}
    return tiny(**{"setup__name": "ta", **weights, "setup__assistant": assistant and str(assistant), **options})


@pytest.mark.parametrize("row", ROWS)
def test_presets_are_the_rows_of_table_3(row, assistant):
    name = f"ta-row{row}"
    settings = resolve(TrainSettings, base=preset(name), sets=[f"setup.assistant={assistant}"])
    o, spec = settings.setup, settings.model.spec((3, 32, 32), 10)
    assert ((o.lambda0, o.lambda1, o.lambda2), o.assistant) == (ROWS[row], assistant)
    assert (spec.label, spec.parameters, settings.loss.name) == ("(6,128,8)", 1_900_812, "lpips")
    assert f"{spec.parameters:,}" in presets()[name]["about"]
    assert TrainSettings.model_validate(settings.model_dump(mode="json")) == settings


def test_the_assistants_preset_is_the_papers():
    settings = resolve(TrainSettings, base=preset("ta-assistant"))
    spec = settings.model.spec((3, 32, 32), 10)
    assert (spec.label, spec.parameters, settings.setup.name) == ("(12,384,12)", 32_573_964, "get")
    assert f"{spec.parameters:,}" in presets()["ta-assistant"]["about"]


@pytest.mark.parametrize("feature", FEATURES)
def test_each_term_reaches_the_student_and_switching_it_off_changes_the_gradients(pairs, assistant, feature):
    trainer, batch = tiny_trainer(pairs, ta(assistant, setup__feature=feature))
    terms = trainer.setup.terms(trainer.student, batch)
    assert tuple(terms) == TERMS
    loss, logs = trainer.setup.loss(trainer.student, batch)
    whole = gradients(trainer, loss)
    assert all(g.any() for g in whole.values())
    for k, name in enumerate(TERMS):
        alone = gradients(trainer, terms[name])
        assert any(g.any() for n, g in alone.items() if n.startswith("model.blocks.0."))
        assert any(g.any() for n, g in alone.items() if n.startswith("extra.")) == (name == "features")
        assert logs[name].item() == pytest.approx(terms[name].item()) and not logs[name].requires_grad
        other, batch = tiny_trainer(pairs, ta(assistant, setup__feature=feature, **{f"setup__lambda{k}": 0}))
        seen, left = other.setup.loss(other.student, batch)
        assert set(left) == set(TERMS) - {name}
        for n, g in gradients(other, seen).items():
            assert torch.allclose(g + alone[n], whole[n], atol=1e-6), n
        if name != "features":  # the last block's gradients, which features of the last but one layer leave alone
            assert (alone["model.blocks.1.down.weight"]).abs().max() > 1e-4


def test_weights_scale_the_terms(pairs, assistant):
    options = {"setup__lambda0": 0.5, "setup__lambda1": 2, "setup__lambda2": 3}
    trainer, batch = tiny_trainer(pairs, ta(assistant, **options))
    loss, logs = trainer.setup.loss(trainer.student, batch)
    assert loss.item() == pytest.approx(sum(w * logs[n].item() for w, n in zip((0.5, 2, 3), TERMS, strict=True)), rel=1e-5)


def test_terms_are_the_definitions_by_hand(pairs, assistant):
    teacher = load_student(assistant)[0]
    seen = {}
    for feature in FEATURES:
        trainer, batch = tiny_trainer(pairs, ta(assistant, setup__feature=feature))
        seen[feature] = trainer.setup.terms(trainer.student, batch)
    image, (mine,) = trainer.model(batch.noise, batch.labels, (1,))  # depth 2: the last but one layer is the first
    theirs, (its,) = teacher(batch.noise, batch.classes, (2,))
    (expand,) = trainer.setup.expansions.values()
    mine = mine @ expand.weight.T + expand.bias
    c = teacher.condition(batch.classes)
    decoded = [unpatchify(teacher.final(x, c), teacher.spec) for x in (mine, its)]
    expected = {"lpips_decoded": (decoded[0] - decoded[1]).abs().mean(),
                "mse": F.mse_loss(F.layer_norm(mine, (24,), eps=1e-6), F.layer_norm(its, (24,), eps=1e-6)),
                "lpips_style": (mine / mine.norm(dim=-1, keepdim=True) - its / its.norm(dim=-1, keepdim=True)).square().sum(-1).mean()}
    for feature, value in expected.items():
        assert seen[feature]["features"].item() == pytest.approx(value.item(), rel=1e-4), feature
        assert seen[feature]["teacher"].item() == pytest.approx((image - batch.images).abs().mean().item(), rel=1e-5)
        assert seen[feature]["assistant"].item() == pytest.approx((image - theirs).abs().mean().item(), rel=1e-5)


def test_several_pairs_of_layers_are_summed(pairs, assistant):
    sums = []
    for layers in ([[1, 1], [2, 3]], [[1, 1]], [[2, 3]]):
        trainer, batch = tiny_trainer(pairs, ta(assistant, setup__layers=layers, setup__feature="mse"))
        with torch.no_grad():
            for p in trainer.setup.expansions.parameters():
                p.fill_(0.1).view(-1)[::2].fill_(-0.2)
        sums.append(trainer.setup.terms(trainer.student, batch)["features"].item())
    assert sums[0] == pytest.approx(sums[1] + sums[2], rel=1e-5) and min(sums) > 0


def test_the_assistant_gets_the_true_class_unless_told(pairs, assistant):
    answers = {}
    for who in ("true", "student"):
        trainer, batch = tiny_trainer(pairs, ta(assistant, 2, label_dropout=1.0, setup__assistant_labels=who))
        assert (batch.labels == 3).all() and (batch.classes < 3).all()
        answers[who] = trainer.setup.terms(trainer.student, batch)["assistant"].item()
        theirs = load_student(assistant)[0](batch.noise, batch.classes if who == "true" else batch.labels)
        image = trainer.model(batch.noise, batch.labels)
        assert answers[who] == pytest.approx((image - theirs).abs().mean().item(), rel=1e-5)
    assert answers["true"] != pytest.approx(answers["student"], rel=1e-3)


def test_row_1_is_get_to_the_bit_and_needs_no_assistant(pairs, tmp_path):
    train(pairs, tmp_path / "get", tiny())
    manifest = train(pairs, tmp_path / "ta", ta(None, 1))
    assert same_runs(tmp_path / "get", tmp_path / "ta")
    assert [p.role for p in manifest.parents] == ["pairs"]


def stop(event) -> None:
    if event.done == 8:
        signal.raise_signal(signal.SIGTERM)


@pytest.mark.parametrize(("row", "feature"), [(2, "mse"), (3, "lpips_decoded"), (4, "mse")])
def test_a_run_resumes_exactly_and_leaves_a_plain_student(pairs, assistant, tmp_path, row, feature):
    before = {f.name: f.read_bytes() for f in assistant.iterdir() if f.is_file()}
    options = {"setup__feature": feature, "steps": 12}
    whole = train(pairs, tmp_path / "whole", ta(assistant, row, **options))
    with pytest.raises(Interrupted):
        train(pairs, tmp_path / "parts", ta(assistant, row, **options), say=stop)
    train(pairs, tmp_path / "parts", ta(assistant, row, **options))
    assert same_runs(tmp_path / "whole", tmp_path / "parts")
    assert {f.name: f.read_bytes() for f in assistant.iterdir() if f.is_file()} == before
    featured = ROWS[row][2] > 0
    assert any(n.startswith("extra.expansions.") for n in newest(tmp_path / "whole")) == featured
    model = load_student(tmp_path / "whole")[0]
    assert sum(p.numel() for p in model.parameters()) == DiTSpec(2, 16, 2, image=8, channels=1, classes=3).parameters
    parent = next(p for p in whole.parents if p.role == "assistant")
    digest = open_artifact(assistant).manifest.digest
    assert parent.digest == digest and parent.parents[0].digest == open_artifact(pairs).manifest.digest
    assert whole.info["loss"]["assistant"] == {"label": "(3,24,3)", "digest": digest, "pairs": "same"}
    assert whole.info["loss"].get("layers") == ([[1, 2]] if featured else None)


@pytest.mark.parametrize(("row", "feature", "lambda2"), [(2, "mse", 0), (3, "lpips_decoded", 1), (4, "lpips_decoded", 1), (4, "mse", 0.1),
                                                         (4, "lpips_style", 0.1)])
def test_every_term_of_a_run_falls(pairs, assistant, tmp_path, row, feature, lambda2):
    options = {"steps": 150, "checkpoint_every": 150, "label_dropout": 0.0, "setup__lambda2": lambda2, "setup__feature": feature}
    train(pairs, tmp_path / "o", ta(assistant, row, **options))
    lines = read_metrics(tmp_path / "o" / METRICS)
    wanted = [name for name, weight in zip(TERMS, ROWS[row], strict=True) if weight]
    assert set(lines[0]) & set(TERMS) == set(wanted)
    for name in ("loss", *wanted):
        assert lines[-1][name] < 0.5 * lines[0][name], name


def test_the_assistant_is_frozen(pairs, assistant):
    trainer, batch = tiny_trainer(pairs, ta(assistant))
    helper = trainer.setup.assistant
    before = {n: t.clone() for n, t in helper.state_dict().items()}
    for step in range(3):
        trainer.step(batch, step, 1e-2)
    assert not helper.training and not any(p.requires_grad or p.grad is not None for p in helper.parameters())
    assert all(torch.equal(before[n], t) for n, t in helper.state_dict().items())
    assert not any("assistant" in n for n in trainer.tensors())


def test_lpips_terms_reach_the_student(tmp_path):
    models = pytest.importorskip("torchvision.models")
    pytest.importorskip("lpips")
    torch.manual_seed(0)
    torch.save(models.squeezenet1_1(weights=None).state_dict(), tmp_path / "random.pth")
    data = write_pairs(tmp_path / "pairs", image=20, channels=3)
    train(data, tmp_path / "assistant", tiny(model__depth=3, model__width=24, model__heads=3, model__patch=4))
    trainer, batch = tiny_trainer(data, ta(tmp_path / "assistant", loss__name="lpips", loss__lpips__net="squeeze", model__patch=4,
                                           loss__lpips__resolution="native", loss__lpips__weights=tmp_path / "random.pth"))
    for name, term in trainer.setup.terms(trainer.student, batch).items():
        found = gradients(trainer, term)
        assert all(torch.isfinite(g).all() for g in found.values()), name
        assert found["model.blocks.0.qkv.weight"].any(), name


# --- what is refused --------------------------------------------------------------------------------------------------------


def test_without_an_assistant_the_error_says_what_to_do(pairs, tmp_path):
    with pytest.raises(UsageError, match=r"needs an assistant[\s\S]*--preset ta-assistant[\s\S]*setup.assistant="):
        train(pairs, tmp_path / "o", ta(None, 2))
    with pytest.raises(ArtifactError, match=r"not there[\s\S]*ta-assistant"):
        train(pairs, tmp_path / "o", ta(tmp_path / "nowhere", 2))
    with pytest.raises(ArtifactError, match="kind 'pairs'"):
        train(pairs, tmp_path / "o", ta(pairs, 2))
    with pytest.raises(UsageError, match="nothing to learn from"):
        ta(None, 1, setup__lambda0=0)
    with pytest.raises(UsageError, match="lambda1"):
        ta(None, setup__lambda1=-1)
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(("other", "seen"), [({"classes": 4}, "3 classes, needed"), ({"image": 12}, r"\(1, 8, 8\) in"),
                                             ({"channels": 3}, r"needed \(3, 8, 8\)")])
def test_an_assistant_of_other_images_or_classes_is_refused(assistant, tmp_path, other, seen):
    with pytest.raises(UsageError, match=rf"other images than these pairs[\s\S]*{seen}"):
        train(write_pairs(tmp_path / "p", **other), tmp_path / "o", ta(assistant, 2))


def test_other_pairs_of_the_same_teacher_are_taken_and_of_another_only_when_told(assistant, tmp_path):
    data = write_pairs(tmp_path / "p", seed=8)
    manifest = train(data, tmp_path / "o", ta(assistant, 2, steps=1))
    assert manifest.info["loss"]["assistant"]["pairs"] == "same teacher"
    m = open_artifact(data).manifest
    seal(data, m.kind, m.files, info={**m.info, "teacher": {"name": "another"}})
    with pytest.raises(UsageError, match=r"another teacher[\s\S]*'another'[\s\S]*any_assistant=true"):
        train(data, tmp_path / "o2", ta(assistant, 2, steps=1))
    manifest = train(data, tmp_path / "o2", ta(assistant, 2, steps=1, setup__any_assistant=True))
    assert manifest.info["loss"]["assistant"]["pairs"] == "another teacher"


def test_another_assistant_does_not_go_on_with_a_run(pairs, assistant, tmp_path):
    train(pairs, tmp_path / "o", ta(assistant, 2, steps=2))
    m = open_artifact(assistant).manifest
    again = tmp_path / "again"
    again.mkdir()
    for name in m.files:
        (again / name).write_bytes((assistant / name).read_bytes())
    seal(again, m.kind, m.files, parents=m.parents, info={**m.info, "label": "another"}, settings=m.settings, spec=m.spec)
    with pytest.raises(UsageError, match=r"setup\.assistant|other assistant"):
        train(pairs, tmp_path / "o", ta(again, 2, steps=3))


def test_features_need_the_same_tokens_but_images_do_not(pairs, assistant):
    with pytest.raises(UsageError, match=r"same tokens[\s\S]*4 tokens, the assistant 16[\s\S]*model.patch=2"):
        tiny_trainer(pairs, ta(assistant, model__patch=4))
    trainer, batch = tiny_trainer(pairs, ta(assistant, 2, model__patch=4))
    assert trainer.setup.terms(trainer.student, batch)["assistant"] > 0


@pytest.mark.parametrize("options", [{"model__depth": 1}, *({"setup__layers": layers} for layers in (
    [], [[3, 1]], [[1, 4]], [[0, 1]], [[1, 2], [1, 2]]))])
def test_layers_that_are_not_there_are_refused(pairs, assistant, options):
    with pytest.raises(UsageError, match=r"setup\.layers must be|needs a depth of 2"):
        tiny_trainer(pairs, ta(assistant, **options))
