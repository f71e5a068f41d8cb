"""Devices by their figures: rates that a floor is made of, power by mode, and where every figure comes from."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

from edgedit.core.errors import UsageError, did_you_mean
from edgedit.core.settings import read_presets

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

KINDS = ("gpu", "cpu")
BUILT_IN = "devices.toml"
NEEDS = {
    "fp16_tflops": "predicting FP16 and INT8", "int8_tops": "predicting INT8", "fp32_tflops": "predicting FP32",
    "dram_gb_s": "predicting anything", "exponentials_g": "predicting a CPU", "memory_mb": "saying whether a design fits",
}
_NUMBERS = ("fp16_tflops", "int8_tops", "fp32_tflops", "dram_gb_s", "exponentials_g", "l2_mb", "gpu_mhz", "emc_mhz", "launch_us",
            "memory_mb", "sm_count")


@dataclass(frozen=True)
class PowerMode:
    """One power mode. Unknown is None.

    Attributes:
        gpu_mhz, emc_mhz: ceilings of the GPU's and the memory's clock.
        load_w: watts of the module under load, lowest and highest to expect.
        idle_w: watts at rest.
        source: where the figures come from, with its tag.
    """

    name: str
    gpu_mhz: float | None = None
    emc_mhz: float | None = None
    load_w: tuple[float, float] | None = None
    idle_w: float | None = None
    source: str = ""


@dataclass(frozen=True)
class Device:
    """What a prediction knows about a device. A figure that is not known is None; `need` says what is lost without it.

    Attributes:
        kind: "gpu": arithmetic, memory and exponentials overlap, the slowest counts. "cpu": one after another, they add up.
        fp16_tflops, int8_tops, fp32_tflops: 10¹² operations a second, dense, without structured sparsity.
        dram_gb_s: 10⁹ bytes a second.
        exponentials_g: 10⁹ exponentials a second.
        l2_mb, sm_count, gpu_mhz, emc_mhz, memory_mb: sizes, the clocks that the rates hold at, memory a program may use.
        launch_us: microseconds a kernel costs besides its work.
        tensorrt: versions that run there.
        board: which devices share measurements: "orin-nano" is the paper's board.
        match: words one of which a record's board, GPU or CPU has, lower case; empty: every record is taken.
        mode: the power mode that the figures are for, "" when there is none.
        sources: figure → tag and source.
        unscaled: clocks that the mode or the device leaves out, so that rates cannot be scaled to the mode.
        file: where the figures were read: a file of the user's, `BUILT_IN`, or "" for a Device made in Python.
    """

    name: str
    title: str = ""
    kind: str = "gpu"
    fp16_tflops: float | None = None
    int8_tops: float | None = None
    fp32_tflops: float | None = None
    dram_gb_s: float | None = None
    exponentials_g: float | None = None
    l2_mb: float | None = None
    sm_count: int | None = None
    gpu_mhz: float | None = None
    emc_mhz: float | None = None
    launch_us: float | None = None
    memory_mb: float | None = None
    tensorrt: tuple[str, ...] = ()
    board: str = ""
    match: tuple[str, ...] = ()
    modes: tuple[PowerMode, ...] = ()
    default_mode: str = ""
    mode: str = ""
    sources: dict[str, str] = field(default_factory=dict)
    unscaled: tuple[str, ...] = ()
    file: str = ""

    def need(self, figure: str, why: str = "") -> float:
        """A figure that something depends on; UsageError names it and what needs it when it is not known."""
        self.need_all({figure: why or NEEDS.get(figure, "this")})
        return float(getattr(self, figure))

    def need_all(self, why: dict[str, str]) -> None:
        """Raise UsageError that names every one of these figures which is not known, with what needs it, and where it could come from."""
        missing = [figure for figure in why if getattr(self, figure) is None]
        if missing:
            where = f"{self.name} in mode {self.mode}" if self.mode else self.name
            raise UsageError(f"device '{where}' has no " + ", and no ".join(f"{f}, which is needed for {why[f]}" for f in missing),
                             fix=self._fix(missing))

    def _fix(self, missing: list[str]) -> str:
        if self.file == BUILT_IN:
            known = known_devices()[self.name] if self.mode else self
            others = [m.name for m in self.modes if m.name != self.mode and known.at(m.name).predicts]
            mode = f"--mode {' or '.join(others)}; " if others else ""
            clocks = ", with the mode's gpu_mhz and emc_mhz" if self.mode else ""
            return f"{mode}--device FILE.toml with figures of your own{clocks} (docs/design.md)"
        where = self.file or "the Device"
        lost = [f for f in missing if ("emc_mhz" if f == "dram_gb_s" else "gpu_mhz") in self.unscaled]
        add = [f"add {_assign([f for f in missing if f not in lost])} to {where}"] if len(lost) < len(missing) else []
        if lost:
            add.append(f"for {', '.join(lost)} in mode '{self.mode}' give {_assign(self.unscaled)} of both the device and the mode "
                       f"in {where}")
        return "; ".join(add)

    @property
    def predicts(self) -> bool:
        """Whether the rates of this mode are known."""
        return self.dram_gb_s is not None and any((self.fp16_tflops, self.fp32_tflops, self.int8_tops))

    def power(self) -> PowerMode | None:
        """The mode that the figures are for."""
        return next((mode for mode in self.modes if mode.name == self.mode), None)

    def at(self, mode: str | None = None) -> Device:
        """The device in a power mode: rates scaled by its clocks. None takes the default mode, or the only one where its rates are known.

        A mode whose GPU or memory clock is unknown has unknown rates (`need` then says so).

        Raises:
            UsageError: no such mode.
        """
        name = mode or self.default_mode
        if not name:
            only = self.at(self.modes[0].name) if len(self.modes) == 1 else self
            return only if only.predicts else self
        found = next((m for m in self.modes if m.name.lower() == name.lower()), None)
        if found is None:
            raise UsageError(f"device '{self.name}' has no power mode '{name}'", fix=did_you_mean(name, [m.name for m in self.modes])
                             if self.modes else "leave --mode out")
        gpu, memory = _ratio(found.gpu_mhz, self.gpu_mhz), _ratio(found.emc_mhz, self.emc_mhz)
        if gpu == 1 and memory == 1:  # nothing to scale
            return replace(self, mode=found.name)
        lost = tuple(clock for clock, by in (("gpu_mhz", gpu), ("emc_mhz", memory)) if by is None)
        return replace(self, mode=found.name, unscaled=lost, gpu_mhz=found.gpu_mhz, emc_mhz=found.emc_mhz,
                       dram_gb_s=_times(self.dram_gb_s, memory),
                       fp16_tflops=_times(self.fp16_tflops, gpu), int8_tops=_times(self.int8_tops, gpu),
                       fp32_tflops=_times(self.fp32_tflops, gpu), exponentials_g=_times(self.exponentials_g, gpu))


def _assign(figures: Sequence[str]) -> str:
    return ", ".join(f"`{figure} = …`" for figure in figures)


def _ratio(here: float | None, there: float | None) -> float | None:
    """Clock of a mode over the clock that the rates hold at; 1 where a device file speaks of no clocks at all."""
    if here is None and there is None:
        return 1.0
    return None if here is None or there is None else here / there


def _times(value: float | None, by: float | None) -> float | None:
    return None if value is None or by is None else value * by


@cache
def known_devices() -> dict[str, Device]:
    """The devices that edgedit knows, by name."""
    return {name: _device(name, values) for name, values in read_presets("edgedit.design", "devices.toml").items()}


def find_device(name: str | Path | Device) -> Device:
    """A known device by its name, or the device of a TOML file.

    Raises:
        UsageError: neither a known name nor a file, unreadable TOML, an unknown key, a figure that is no positive number; no dram_gb_s,
            no rate of arithmetic, or for a CPU no exponentials_g in it.
    """
    if isinstance(name, Device):
        return name
    known, file = known_devices(), Path(name)
    if str(name) in known:
        return known[str(name)]
    if file.suffix != ".toml" and not file.is_file():
        raise UsageError(f"there is no device '{name}'", fix=did_you_mean(str(name), [*known, "FILE.toml"]))
    try:
        values = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"device file {file} is not there", fix=f"known devices: {', '.join(known)}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise UsageError(f"device file {file} cannot be read as TOML", saw=error) from error
    tables = [key for key, value in values.items() if isinstance(value, dict) and key != "sources"]
    if len(tables) == 1 and len(values) == 1:  # one device under its name, as in edgedit's own file
        return _device(tables[0], values[tables[0]], str(file))
    return _device(str(values.pop("name", file.stem)), values, str(file))


def _device(name: str, values: dict[str, Any], where: str = BUILT_IN) -> Device:
    known = [f.name for f in fields(Device) if f.name not in ("name", "mode", "unscaled", "file")]
    for key in values:
        if key not in known:
            raise UsageError(f"{where}: a device has no figure '{key}'", fix=did_you_mean(key, known))
    for key in _NUMBERS:
        value = values.get(key)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf")):
            raise UsageError(f"{where}: {key} must be a positive number", saw=repr(value), fix="leave it out when it is not known")
    kind = values.get("kind", "gpu")
    if kind not in KINDS:
        raise UsageError(f"{where}: kind must be gpu or cpu", saw=repr(kind))
    lists = {key: tuple(str(v) for v in values.get(key, ())) for key in ("tensorrt", "match")}
    lists["match"] = tuple(word.lower() for word in lists["match"])
    modes = tuple(_mode(where, mode) for mode in values.get("modes", ()))
    made = Device(name, **{**values, **lists, "modes": modes, "file": where})  # type: ignore[arg-type]
    needed = ["fp32_tflops", "dram_gb_s", "exponentials_g"] if kind == "cpu" else ["dram_gb_s"]
    if kind == "gpu" and not any((made.fp16_tflops, made.fp32_tflops, made.int8_tops)):
        needed.insert(0, "fp16_tflops")
    made.need_all({figure: NEEDS[figure] for figure in needed})
    if made.default_mode:
        made.at()
    return made


def _mode(where: str, values: dict[str, Any]) -> PowerMode:
    known = [f.name for f in fields(PowerMode)]
    for key in values:
        if key not in known:
            raise UsageError(f"{where}: a power mode has no figure '{key}'", fix=did_you_mean(key, known))
    if not values.get("name"):
        raise UsageError(f"{where}: a power mode needs a name")
    load = values.get("load_w")
    if load is not None and not (isinstance(load, list) and len(load) == 2 and 0 < load[0] <= load[1]):
        raise UsageError(f"{where}: load_w of mode {values['name']} must be [lowest, highest] watts", saw=repr(load))
    return PowerMode(**{**values, "load_w": (float(load[0]), float(load[1])) if load else None})
