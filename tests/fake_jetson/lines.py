"""tegrastats lines of JetPack 4 to 7 for a given total power. Standard library only; numbers other than power are invented."""

from __future__ import annotations

STYLES = ("jp4", "jp5", "jp6", "jp7")
AGX_STYLES = ("agx5", "agx6", "agx7")
"""The same releases on an AGX Orin, which has four rails and no total."""
PARTS = {"jp4": ("POM_5V_IN", "POM_5V_GPU", "POM_5V_CPU"),
         **dict.fromkeys(AGX_STYLES, ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0", "VDDQ_VDD2_1V8AO"))}
SHARES = (1.0, 0.4, 0.25)
"""Of the total: the input rail and two rails inside it."""
AGX_SHARES = (0.4, 0.25, 0.25, 0.1)
"""Of the total: the four rails that make it."""


def rail_names(style: str) -> tuple[str, ...]:
    return PARTS.get(style, ("VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC"))


def rail_field(style: str, name: str, now: int, mean: int, peak: int) -> str:
    if style == "jp4":
        return f"{name} {now}/{mean}"
    return f"{name} {now}mW/{mean}mW" + (f"/{peak}mW" if style in ("jp7", "agx7") else "")


def line(style: str, total_mw: float, mean_mw: float, peak_mw: float, seconds: int = 0) -> str:
    """One line in a release's spelling; the second number of a rail is the running mean since the start."""
    clock = f"02-03-2031 04:{seconds // 60 % 60:02d}:{seconds % 60:02d} "
    rails = " ".join(rail_field(style, name, round(total_mw * s), round(mean_mw * s), round(peak_mw * s))
                     for name, s in zip(rail_names(style), AGX_SHARES if style in AGX_STYLES else SHARES))  # noqa: B905
    return _HEAD[style.replace("agx", "jp")].format(clock=clock) + rails


_HEAD = {
    "jp4": "RAM 1234/3964MB (lfb 210x4MB) SWAP 17/1982MB (cached 3MB) IRAM 0/252kB(lfb 252kB) CPU [31%@921,28%@921,off,off] "
           "EMC_FREQ 12%@1600 GR3D_FREQ 55%@614 APE 25 PLL@41.5C CPU@43C PMIC@100C GPU@43.75C AO@52C thermal@42.75C ",
    "jp5": "{clock}RAM 2222/7400MB (lfb 12x4MB) SWAP 11/3700MB (cached 2MB) CPU [21%@1113,19%@1113,8%@1113,5%@1113,off,off] "
           "EMC_FREQ 7%@2133 GR3D_FREQ 44%@510 GR3D2_FREQ 0%@0 VIC_FREQ 115 APE 174 CV0@-256C CPU@47.25C GPU@46.75C ",
    "jp6": "{clock}RAM 2345/7600MB (lfb 20x2MB) CPU [3%@1510,0%@1510,1%@1510,0%@1510,2%@1510,0%@1510] EMC_FREQ 21%@3199 "
           "GR3D_FREQ 87%@[918] NVDEC off NVJPG off NVJPG1 off VIC off OFA off APE 200 cpu@51.5C soc2@50.25C tj@53C ",
    "jp7": "{clock}RAM 3456/7550MB (lfb 3x2MB) SWAP 100/2048MB (cached 7MB) CPU [11%@1344,9%@1344,14%@1344,7%@1344,off,off] "
           "GR3D_FREQ 61% cpu@48.75C/49.25C soc2@47.375C/47.5C gpu@49.5C/50.125C tj@49.5C/50.125C ",
}
