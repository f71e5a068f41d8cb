"""Peak resident memory of `profile` over 50,000 images with a given bundle, in a process of its own.

    python benchmarks/profile_memory.py BUNDLE [--images 50000] [--threads N] [--save]

Prints one JSON object and exits with 1 when the peak is 600 MB or more.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from edgedit.core.say import Event
from edgedit.device.measure import ProfileSettings
from edgedit.device.profile import profile
from edgedit.device.runtime import RuntimeChoice

TARGET_MB = 600


def _tell(event: Event) -> None:
    if event.done is not None and sys.stderr.isatty():
        print(f"\r{event.text} {event.done}/{event.total} {event.unit} {event.values}", end="", file=sys.stderr, flush=True)


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("bundle", nargs="?", type=Path, default=Path("runs/quickstart/bundle-fp32"))
    options.add_argument("--images", type=int, default=50_000)
    options.add_argument("--threads", type=int)
    options.add_argument("--save", action="store_true", help="also write the images")
    args = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        settings = ProfileSettings(images=args.images, save=args.save, idle_s=0, warmup_batches=2)
        record = profile(args.bundle, RuntimeChoice(threads=args.threads), Path(folder) / "record", settings, say=_tell)
    whole = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    result = {"design": record.subject.label, "precision": record.subject.precision, "attention": record.subject.attention,
              "images": record.protocol.options["images_measured"], "batch": record.protocol.batch, "save": args.save,
              "provider": record.protocol.provider, "images_per_s": round(record.images_per_s, 1),
              "peak_memory_mb": {"run": record.peak_memory_mb, "whole_process": round(whole, 1)}, "target_mb": TARGET_MB}
    result["reached"] = whole < TARGET_MB
    print(json.dumps(result, indent=1))
    return 0 if result["reached"] else 1


if __name__ == "__main__":
    sys.exit(main())
