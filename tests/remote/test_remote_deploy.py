"""deploy from end to end: a real sshd, rsync, pip and edgedit on a board with a home of its own; cut and repeated."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from edgedit.cli.deploy import deploy as verb
from edgedit.core.artifact import open_artifact
from edgedit.core.errors import EdgeditError, MissingError, OutputError, UsageError
from edgedit.core.say import silent
from edgedit.remote import deploy as deploy_module
from edgedit.remote import steps
from edgedit.remote.board import Board
from edgedit.remote.deploy import DeploySettings, deploy
from edgedit.remote.facts import BoardFacts
from edgedit.remote.ssh import Connection
from edgedit.remote.wheel import own_wheel
from tests.device.bundle_kit import make_bundle
from tests.fake_jetson import build_tree

ROOT = Path(__file__).resolve().parents[2]
SMALL = DeploySettings(runtime="ort", profile=True, images=24, generate=10, patience_s=20)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return make_bundle(tmp_path_factory.mktemp("deploy") / "bundle", dynamic=True)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """One wheel for the module: the checkout may be edited while the tests run."""
    return own_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(autouse=True)
def same_wheel(wheel, monkeypatch):
    monkeypatch.setattr(deploy_module, "own_wheel", lambda folder: Path(shutil.copy(wheel, folder)))


@pytest.fixture(scope="module")
def ready(fake, bundle, wheel, tmp_path_factory):
    """The first deployment of the module, and what it said."""
    out, said = tmp_path_factory.mktemp("out"), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(deploy_module, "own_wheel", lambda folder: Path(shutil.copy(wheel, folder)))
        return out, deploy(fake.target, bundle, out, SMALL, say=said.append), said


def test_the_first_run_does_all_and_brings_the_results(ready, fake, bundle):
    out, result, said = ready
    assert set(result.steps.values()) == {"done"} and list(result.steps)[:4] == ["environment", "install", "bundle", "doctor"]
    record = open_artifact(out / "record", "record")
    assert record.manifest.parents[0].digest == open_artifact(bundle).manifest.digest
    assert result.measured["protocol"]["images"] == 24 and result.measured["complete"]
    import numpy as np
    with np.load(out / "images/images.npz") as images:
        assert images["images"].shape == (10, 8, 8, 3)
    assert json.loads((out / "deploy.json").read_text())["steps"]["profile"] == "done"
    assert any(e.text == "board: profile" and e.done == e.total == 24 for e in said), "the board's progress is passed on"
    config = (fake.home / "edgedit/venv/pyvenv.cfg").read_text()
    assert "include-system-site-packages = true" in config


def test_the_second_run_changes_nothing(ready, fake, bundle):
    out, first, _ = ready
    before = {p: p.stat().st_mtime_ns for p in (out / "record").rglob("*")}
    said = []
    again = deploy(fake.target, bundle, out, SMALL, say=said.append)
    assert [again.steps[name] for name in ("environment", "install", "bundle")] == ["was there"] * 3
    assert {p: p.stat().st_mtime_ns for p in (out / "record").rglob("*")} == before
    assert any("holds this measurement already" in e.text for e in said)
    assert any("images are there already" in e.text for e in said)
    assert again.measured == first.measured


def test_a_bundle_that_was_damaged_on_the_board_is_sent_anew(ready, fake, bundle, tmp_path):
    places = steps.Places(str(fake.home / "edgedit"), open_artifact(bundle).manifest.digest)
    model = Path(places.bundle) / "model.onnx"
    stat, data = model.stat(), bytearray(model.read_bytes())
    data[50] ^= 1
    model.write_bytes(data)
    os.utime(model, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    result = deploy(fake.target, bundle, tmp_path, replace(SMALL, profile=False, generate=0))
    assert result.steps["bundle"] == "done" and model.read_bytes() == (bundle / "model.onnx").read_bytes()


def test_results_that_were_damaged_on_the_host_come_again(ready, fake, bundle, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(ready[0], out)
    (out / "record/record.json").write_text("{}")
    (out / "images/images.png").write_bytes(b"")
    deploy(fake.target, bundle, out, SMALL)
    assert open_artifact(out / "record").manifest.digest == open_artifact(ready[0] / "record").manifest.digest
    assert (out / "images/images.png").read_bytes() == (ready[0] / "images/images.png").read_bytes()
    assert sorted(p.name for p in out.iterdir()) == ["deploy.json", "images", "record"]


def test_a_dry_run_only_looks(fake, bundle, tmp_path):
    said = []
    result = deploy(fake.target, bundle, tmp_path / "out", replace(SMALL, folder="~/elsewhere", power_mode="25W"), dry_run=True,
                    say=said.append)
    assert not (fake.home / "elsewhere").exists() and not (tmp_path / "out").exists()
    assert "--system-site-packages" in result.steps["environment"] and "[cpu]" in result.steps["install"]
    assert "--power-mode 25W" in result.steps["profile"] and "--count 10" in result.steps["generate"]


def test_a_board_without_room_is_refused_before_anything_is_written(fake, bundle, tmp_path):
    with pytest.raises(OutputError, match="too little space"):
        deploy(fake.target, bundle, tmp_path, replace(SMALL, folder="~/roomy", generate=10**12))
    assert not (fake.home / "roomy").exists()


def test_wrong_requests_are_refused_without_a_board(bundle, tmp_path, fake):
    fixed = make_bundle(tmp_path / "fixed")
    nowhere = fake.reach(port=1)
    with pytest.raises(UsageError, match="batch 4 only"):
        deploy(nowhere, fixed, tmp_path, replace(SMALL, batch=128))
    with pytest.raises(EdgeditError, match="edgedit export"):
        deploy(nowhere, tmp_path / "nothing", tmp_path)
    with pytest.raises(UsageError, match="did you mean 'trt'"):
        deploy(nowhere, bundle, tmp_path, replace(SMALL, runtime="tensorrt"))
    for unused in (replace(SMALL, profile=False, power_mode="25W"), replace(SMALL, profile=False, lock_clocks=True)):
        with pytest.raises(UsageError, match="--profile"):
            deploy(nowhere, bundle, tmp_path, unused)
    (tmp_path / "o/record").mkdir(parents=True)
    (tmp_path / "o/record/holiday.jpg").write_text("x")
    with pytest.raises(OutputError, match="did not make"):
        deploy(nowhere, bundle, tmp_path / "o", SMALL)


def start_verb(fake, bundle, out, *more):
    app = "import sys, typer; from edgedit.cli.deploy import deploy; from edgedit.core.errors import EdgeditError\n" \
          "app = typer.Typer(); app.command()(deploy)\n" \
          "try:\n    app(standalone_mode=False)\nexcept EdgeditError as e:\n    print(e, file=sys.stderr); sys.exit(e.code)\n"
    board, *options = fake.arguments()
    argv = [sys.executable, "-c", app, board, str(bundle), "--out", str(out), "--runtime", "ort", *options, *more]
    return subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_ctrl_c_on_the_host_leaves_the_job_and_stop_ends_it(ready, fake, bundle, tmp_path):
    long = ("--profile", "--images", "9000000", "--batch", "4")
    with start_verb(fake, bundle, tmp_path / "out", *long) as host:
        for line in host.stderr:
            if "board: profile" in line:
                break
        host.send_signal(signal.SIGINT)
        rest = host.stderr.read()
    assert host.returncode == 130 and "--stop" in rest and "Ctrl-C" in rest
    with Connection(fake.target) as connection:
        state = Board(connection, patience_s=0, say=silent).ask("status", folder=str(fake.home / "edgedit"), name="profile")
    assert state["state"] == "running"
    with start_verb(fake, bundle, tmp_path / "out", *long) as follower:
        for line in follower.stderr:
            if "following it" in line:
                break
        with start_verb(fake, bundle, tmp_path / "out", "--stop") as stopper:
            assert "stopped profile" in stopper.stdout.read()
        assert "was stopped on the board" in follower.stderr.read()
    assert follower.returncode == 130


def test_the_verb_prints_one_json_object(ready, fake, bundle):
    app = typer.Typer()
    app.command()(verb)
    argv = [fake.arguments()[0], str(bundle), "--out", str(ready[0]), "--runtime", "ort", "--profile", "--images", "24", "--json",
            *fake.arguments()[1:]]
    done = CliRunner().invoke(app, argv)
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["record"] == str(ready[0] / "record") and told["board"]["machine"]


EDGEDIT = """#!/bin/sh
echo "$@" >> {log}
case $1 in
  --version) echo edgedit 0 ;;
  show) echo '{{"links": [{{"status": "verified", "digest": "{digest}"}}]}}' ;;
  doctor) echo '{{"findings": [{findings}]}}' ;;
  *) echo '{{"made": "'$1'"}}' ;;
esac
"""


@pytest.fixture
def orin(fake, bundle, wheel, tmp_path):
    """A board with JetPack 6 and TensorRT to look at, whose edgedit only writes down what it is asked."""
    site = fake.home / f".local/lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages/tensorrt"
    site.mkdir(parents=True)
    (site / "__init__.py").write_text("")
    settings = DeploySettings(folder=str(fake.home / "orin"), root=str(build_tree(tmp_path / "tree")), patience_s=5)
    log, digest = tmp_path / "asked", open_artifact(bundle).manifest.digest
    places = steps.Places(settings.folder, digest)

    def prepare(findings=""):
        with Connection(fake.target) as connection:
            board = Board(connection, patience_s=0, say=silent)
            facts = BoardFacts.from_answer(board.ask("facts", folder=settings.folder, root=settings.root))
            assert facts.tensorrt and facts.l4t == "36.4.3"
            steps.make_environment(board, places)
            script = Path(places.edgedit)
            script.write_text(EDGEDIT.format(log=log, digest=digest, findings=findings))
            script.chmod(0o755)
            board.ask("remember", folder=settings.folder, step="install", value=steps.Wheels(wheel, None, "trt").key(facts))
        return settings, log
    yield prepare
    shutil.rmtree(site)
    shutil.rmtree(settings.folder, ignore_errors=True)


def test_with_tensorrt_the_engine_is_built_before_it_is_measured(orin, fake, bundle, tmp_path):
    settings, log = orin()
    result = deploy(fake.target, bundle, tmp_path / "out", settings)
    assert result.engine == {"made": "build"} and "Jetson Orin Nano" in (result.board["model"] or "")
    with pytest.raises(EdgeditError, match="holds no record"):  # this edgedit writes none
        deploy(fake.target, bundle, tmp_path / "out", replace(settings, profile=True, batch=128, power_mode="25W"))
    asked = [line.split()[0] for line in log.read_text().splitlines()]
    assert asked[-1] == "profile" and asked[-2] == "build"
    assert "--runtime trt --images 50000 --batch 128 --power auto --power-mode 25W --out" in log.read_text()


def test_an_error_of_the_boards_doctor_stops_with_its_fix(orin, fake, bundle, tmp_path):
    finding = {"level": "error", "code": "no-libnvdla", "title": "TensorRT does not load", "saw": "no libnvdla_compiler.so",
               "fix": "sudo apt install nvidia-l4t-dla-compiler"}
    settings, log = orin(json.dumps(finding))
    with pytest.raises(MissingError, match="TensorRT does not load") as caught:
        deploy(fake.target, bundle, tmp_path / "out", settings)
    assert "on the board: sudo apt install nvidia-l4t-dla-compiler" in str(caught.value.fix)
    assert "build" not in log.read_text()


def test_another_python_on_the_board_means_another_environment(ready, fake):
    facts = ready[1].board
    with Connection(fake.target) as connection:
        board = Board(connection, patience_s=0, say=silent)
        places = steps.Places(str(fake.home / "edgedit"), "0" * 64)
        now = BoardFacts(**facts)
        assert steps.environment_there(board, places, now)
        assert not steps.environment_there(board, places, BoardFacts(**{**asdict(now), "python": "3.12.3"}))


@pytest.mark.slow
def test_a_real_environment_from_wheels_brought_along(fake, bundle, tmp_path):
    """python3 -m venv and pip as they are; the wheels come with `--offline`. Skipped where no index can be asked."""
    wheels = tmp_path / "wheels"
    wanted = [sys.executable, "-m", "pip", "download", "-q", "-d", str(wheels), "--only-binary=:all:", f"{ROOT}[cpu]"]
    if subprocess.run(wanted, capture_output=True, check=False).returncode:
        pytest.skip("pip cannot download wheels here")
    for own in wheels.glob("edgedit*"):
        own.unlink()
    python = fake.bin / "python3"
    kept = python.read_text()
    base = Path(sys.base_prefix) / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}"
    fake.tool("python3", f"#!/bin/sh\nexec {base} \"$@\"\n")
    try:
        began = time.monotonic()
        result = deploy(fake.target, bundle, tmp_path / "out", replace(SMALL, folder="~/real", offline=wheels, generate=0))
        print(f"installed and measured in {time.monotonic() - began:.0f} s")
        assert result.record is not None and result.steps["install"] == "done"
    finally:
        fake.tool("python3", kept)
