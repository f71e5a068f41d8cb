"""What runs on a node. The functions are made inside functions: so Ray sends their code, and a node without edgedit can say so."""

from __future__ import annotations

from collections.abc import Callable


def attempt_task() -> Callable[[str, str], int]:
    """Runs one start of a job in a process of its own; returns its exit status."""

    def attempt(folder: str, name: str) -> int:
        import subprocess
        import sys
        import time

        import ray

        node = f"{ray.util.get_node_ip_address()} {ray.get_runtime_context().get_node_id()[:8]}"
        command = [sys.executable, "-m", "edgedit.design.sweep.attempt", folder, name, node]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True)
        while process.poll() is None:
            try:
                time.sleep(0.3)  # Ray's cancelling reaches Python code between two steps, not a process that waits in the system
            except KeyboardInterrupt:  # the job may save
                if process.stdin is not None:
                    process.stdin.close()
        return process.returncode

    return attempt


def look_task() -> Callable[[str, str, str], str]:
    """Looks whether a node can run this sweep; returns what is wrong, "" when nothing."""

    def look(token: str, pairs: str, version: str) -> str:
        import os
        import sys
        from importlib.util import find_spec

        if find_spec("edgedit") is None:
            return f"edgedit is not installed for {sys.executable}"
        import edgedit

        if edgedit.__version__ != version:
            return f"edgedit {edgedit.__version__} is installed there, {version} here"
        for file, what in ((token, "the folder of the sweep, --out"), (os.path.join(pairs, "manifest.json"), "the pairs")):
            if not os.path.isfile(file):
                return f"it does not see {what}: {os.path.dirname(file)}"
        if not os.access(os.path.dirname(token), os.W_OK):
            return f"it may not write {os.path.dirname(token)}"
        return ""

    return look
