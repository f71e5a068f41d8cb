"""What each board and release is, as data: device tree, power modes, clocks, rails, sensors. Standard library only.

Names, paths and files follow NVIDIA's guides and public board readings; numbers that only fill a field are invented. The mode
names of the Orin Nano 4 GB and the masks of the modes that switch TPCs off are as reported, not seen.
"""

from __future__ import annotations

from dataclasses import dataclass

NO_CAP = -1


@dataclass(frozen=True)
class Mode:
    """One power mode of a configuration: caps in MHz (`NO_CAP`: the chip's own), cores that are on, TPCs switched off."""

    id: int
    name: str
    gpu_mhz: float
    cpu_khz: int
    cores: int
    tpc_mask: int = 240
    emc_mhz: int = 2133


@dataclass(frozen=True)
class Board:
    """One module on one carrier with one configuration.

    Attributes:
        model: the device tree's model.
        sku: of the module, the end of p3767-… or p3701-….
        conf: file under etc/nvpmodel that etc/nvpmodel.conf points to.
        tnspec: board name in nv_boot_control.conf.
        rails: chip address → labels of its three channels ("" where unconnected).
        shares: rail → part of the total power; the sum of the total's parts is 1.
    """

    model: str
    sku: str
    conf: str
    tnspec: str
    modes: tuple[Mode, ...]
    default: int
    gpu_mhz: float
    cpu_khz: int
    cores: int
    memory_kb: int
    rails: tuple[tuple[str, tuple[str, str, str]], ...]
    shares: dict[str, float]
    module: str = "p3767"


@dataclass(frozen=True)
class Release:
    """A Jetson Linux release: first line of nv_tegra_release, kernel, Ubuntu, Python, the GPU's devfreq node, style of names."""

    l4t: str
    kernel: str
    ubuntu: str
    python: str
    gpu_node: str
    gpu_path: str
    gpu_platform: str
    style: str

    @property
    def line(self) -> str:
        major, _, rest = self.l4t.partition(".")
        return f"# R{major} (release), REVISION: {rest}, GCID: 38968081, BOARD: generic, EABI: aarch64, DATE: Wed Jan  8 01:49:37 UTC 2025"


_SMALL = (("1-0040", ("VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC")),)
_SMALL_SHARES = {"VDD_IN": 1.0, "VDD_CPU_GPU_CV": 0.4, "VDD_SOC": 0.25}
_AGX = (("1-0040", ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0")), ("1-0041", ("", "VDDQ_VDD2_1V8AO", "")))
_AGX_SHARES = {"VDD_GPU_SOC": 0.4, "VDD_CPU_CV": 0.25, "VIN_SYS_5V0": 0.25, "VDDQ_VDD2_1V8AO": 0.1}
_NANO = "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit"

BOARDS = {
    "orin-nano-8gb-super": Board(
        f"{_NANO} Super", "0005", "nvpmodel_p3767_0003_super.conf", "jetson-orin-nano-devkit-super",
        (Mode(0, "15W", 612, 1497600, 6), Mode(1, "25W", 918, 1344000, 6, emc_mhz=3199),
         Mode(2, "MAXN_SUPER", NO_CAP, NO_CAP, 6, emc_mhz=3199), Mode(3, "7W", 408, 960000, 4, tpc_mask=252)),
        1, 1020, 1728000, 6, 7802112, _SMALL, _SMALL_SHARES),
    "orin-nano-8gb": Board(
        _NANO, "0005", "nvpmodel_p3767_0003.conf", "jetson-orin-nano-devkit",
        (Mode(0, "15W", NO_CAP, NO_CAP, 6), Mode(1, "7W", 408, 960000, 4, tpc_mask=252)),
        0, 624.75, 1510400, 6, 7802112, _SMALL, _SMALL_SHARES),
    "orin-nano-4gb": Board(
        _NANO, "0004", "nvpmodel_p3767_0004.conf", "jetson-orin-nano-devkit",
        (Mode(0, "10W", NO_CAP, NO_CAP, 6, tpc_mask=252), Mode(1, "7W_AI", 408, 960000, 4, tpc_mask=252),
         Mode(2, "7W_CPU", 408, 1113600, 6, tpc_mask=254)),
        0, 624.75, 1510400, 6, 3802112, _SMALL, _SMALL_SHARES),
    "orin-nx": Board(
        "NVIDIA Jetson Orin NX Engineering Reference Developer Kit", "0000", "nvpmodel_p3767_0000.conf", "jetson-orin-nano-devkit",
        (Mode(0, "MAXN", NO_CAP, NO_CAP, 8, emc_mhz=3199), Mode(1, "10W", 612, 1190400, 4, tpc_mask=252),
         Mode(2, "15W", 612, 1420800, 4), Mode(3, "25W", 408, 1497600, 8, emc_mhz=3199)),
        3, 918, 1984000, 8, 15802112, _SMALL, _SMALL_SHARES),
    "agx-orin": Board(
        "NVIDIA Jetson AGX Orin Developer Kit", "0005", "nvpmodel_p3701_0005.conf", "jetson-agx-orin-devkit",
        (Mode(0, "MAXN", NO_CAP, NO_CAP, 12, tpc_mask=0, emc_mhz=3199), Mode(1, "MODE_15W", 408, 1113600, 4, tpc_mask=248),
         Mode(2, "MODE_30W", 612, 1728000, 8, tpc_mask=192, emc_mhz=3199), Mode(3, "MODE_50W", 816, 1497600, 12, 0, 3199)),
        2, 1300.5, 2201600, 12, 62802112, _AGX, _AGX_SHARES, "p3701"),
}

_JP5 = ("5.10.120-tegra", "20.04.6", "3.8", "17000000.ga10b", "sys/devices/17000000.ga10b", "sys/devices/gpu.0", "jp5")
_JP6 = ("5.15.148-tegra", "22.04.5", "3.10", "17000000.gpu", "sys/devices/platform/17000000.gpu", "sys/devices/platform/gpu.0", "jp6")
_JP7 = ("6.8.12-tegra", "24.04.2", "3.12", "17000000.gpu", "sys/devices/platform/bus@0/17000000.gpu", "sys/devices/platform/gpu.0",
        "jp7")
RELEASES = {
    "5.1.2": Release("35.4.1", *_JP5), "6.0": Release("36.3.0", *_JP6), "6.2": Release("36.4.3", *_JP6),
    "6.2.1": Release("36.4.7", *_JP6), "6.2.2": Release("36.5.0", *_JP6),
    "7.2": Release("39.2.0", *_JP7), "7.2.1": Release("39.2.1", *_JP7),
}
FIRST_SUPER = ("6.2", "6.2.1", "6.2.2", "7.2", "7.2.1")

MATRIX = tuple((board, release) for board in BOARDS for release in RELEASES
               if not board.endswith("-super") or release in FIRST_SUPER)
"""Every pair of board and release that exists."""


def conf_text(board: Board, release: Release) -> str:
    """An nvpmodel configuration: parameter definitions, modes, default (grammar of the file's own header)."""
    gpu, platform = f"/{release.gpu_path}/devfreq_dev", f"/{release.gpu_platform}"
    lines = ["# nvpmodel configuration", "", "< PARAM TYPE=FILE NAME=CPU_ONLINE >",
             *(f"CORE_{n} /sys/devices/system/cpu/cpu{n}/online" for n in range(board.cores)), "",
             "< PARAM TYPE=FILE NAME=TPC_POWER_GATING >", f"TPC_PG_MASK {platform}/tpc_pg_mask", "",
             "< PARAM TYPE=FILE NAME=GPU_POWER_CONTROL_ENABLE >", f"GPU_PWR_CNTL_EN {platform}/power/control", ""]
    for n in range(0, board.cores, 4):
        cpu = f"/sys/devices/system/cpu/cpu{n}/cpufreq"
        lines += [f"< PARAM TYPE=CLOCK NAME=CPU_A78_{n // 4} >", f"FREQ_TABLE {cpu}/scaling_available_frequencies",
                  f"MAX_FREQ {cpu}/scaling_max_freq", f"MIN_FREQ {cpu}/scaling_min_freq", ""]
    lines += ["< PARAM TYPE=CLOCK NAME=GPU >", f"FREQ_TABLE {gpu}/available_frequencies", f"MAX_FREQ {gpu}/max_freq",
              f"MIN_FREQ {gpu}/min_freq", "", "< PARAM TYPE=CLOCK NAME=EMC >", "MAX_FREQ /sys/kernel/nvpmodel_clk_cap/emc", ""]
    for mode in board.modes:
        lines += [f"< POWER_MODEL ID={mode.id} NAME={mode.name} >",
                  *(f"CPU_ONLINE CORE_{n} {int(n < mode.cores)}" for n in range(board.cores)),
                  f"TPC_POWER_GATING TPC_PG_MASK {mode.tpc_mask}", "GPU_POWER_CONTROL_ENABLE GPU_PWR_CNTL_EN on"]
        for n in range(0, board.cores, 4):
            lines += [f"CPU_A78_{n // 4} MIN_FREQ 729600", f"CPU_A78_{n // 4} MAX_FREQ {mode.cpu_khz}"]
        gpu_hz = NO_CAP if mode.gpu_mhz == NO_CAP else round(mode.gpu_mhz * 1e6)
        lines += ["GPU MIN_FREQ 0", f"GPU MAX_FREQ {gpu_hz}", f"EMC MAX_FREQ {mode.emc_mhz * 1_000_000}", ""]
    return "\n".join([*lines, "# mandatory section to configure the default power mode", f"< PM_CONFIG DEFAULT={board.default} >", ""])
