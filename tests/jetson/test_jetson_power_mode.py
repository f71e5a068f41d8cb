"""jetson/power-mode.sh: modes by name, and the board put back whatever happens to the command."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import signal
import sys
import time
from pathlib import Path

import pytest

from tests.jetson.script_board import SCRIPTS, ScriptBoard

PINNED = "pinned in pmode:0002"


@pytest.fixture
def board(tmp_path):
    return ScriptBoard(tmp_path)


def wait_for(file: Path):
    until = time.monotonic() + 20
    while not file.exists() and time.monotonic() < until:
        time.sleep(0.01)
    assert file.exists()


def untouched(board):
    return board.live == "25W" and board.clocks == "free" and not (board.state / "power/state").exists()


def python(code, *arguments):
    return (sys.executable, "-c", code, *map(str, arguments))


WAITS = "import os, sys, time; open(sys.argv[1], 'w').write(str(os.getpid())); time.sleep(60)"


def test_modes_are_listed_by_name(board):
    assert board.run("power-mode.sh").stdout.splitlines() == ["  15W", "* 25W", "  MAXN_SUPER", "  7W"]


def test_a_mode_is_set_by_name_and_stays(board):
    done = board.run("power-mode.sh", "maxn_super")
    assert done.returncode == 0 and board.live == "MAXN_SUPER" and "nvpmodel -m 2" in done.stderr
    board.forget()
    assert "already" in board.run("power-mode.sh", "MAXN_SUPER").stderr and board.log == []


def test_names_not_numbers(board):
    for name in ("2", "MAXN"):
        done = board.run("power-mode.sh", name)
        assert done.returncode == 2 and "15W, 25W, MAXN_SUPER, 7W" in done.stderr
    assert board.log == []


def test_a_mode_that_needs_a_restart_is_refused_and_the_board_stays_up(board):
    board.mark("needs-reboot", "3")
    done = board.run("power-mode.sh", "7W")
    assert done.returncode == 3 and "restart" in done.stderr and "answered no" in board.log and board.live == "25W"


def test_a_mode_that_nvpmodel_refuses(board):
    board.mark("refuses", "0")
    done = board.run("power-mode.sh", "15W")
    assert done.returncode == 3 and "bad power mode 0" in done.stderr


def test_a_command_runs_in_the_mode_with_clocks_pinned_and_all_goes_back(board, tmp_path):
    seen = tmp_path / "seen"
    done = board.run("power-mode.sh", "MAXN_SUPER", "--", "sh", "-c", f"cat {board.state}/clocks > {seen}; echo result; exit 7")
    assert done.returncode == 7 and done.stdout == "result\n"
    assert seen.read_text().strip() == PINNED
    assert untouched(board)
    asked = [line.strip() for line in board.log if not line.startswith("nvpmodel -q")]
    assert asked == ["jetson_clocks --store before", "nvpmodel -m 2", "jetson_clocks --store within", "jetson_clocks",
                     "jetson_clocks --restore within", "nvpmodel -m 1", "jetson_clocks --restore before"]


def test_without_lock_clocks_stay_as_they_are(board):
    assert board.run("power-mode.sh", "--no-lock", "15W", "--", "true").returncode == 0
    assert untouched(board) and not any("jetson_clocks" in line for line in board.log)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_signals_reach_the_command_and_the_board_is_put_back(number, code, board, tmp_path):
    pid, got = tmp_path / "pid", tmp_path / "got"
    catch = ("import os, signal, sys, time\n"  # waits for signals by name: a handler may come just too late to break off a sleep
             "numbers = {1, 2, 15}\n"
             "for n in numbers:\n    signal.signal(n, signal.SIG_DFL)\n"
             "signal.pthread_sigmask(signal.SIG_BLOCK, numbers)\n"
             "open(sys.argv[1], 'w').write(str(os.getpid()))\n"
             "first = signal.sigwait(numbers)\n"
             "time.sleep(0.1)\n"
             "open(sys.argv[2], 'w').write(' '.join(str(int(n)) for n in (first, *signal.sigpending())))")
    with board.start("power-mode.sh", "MAXN_SUPER", "--", *python(catch, pid, got)) as script:
        wait_for(pid)
        script.send_signal(number)
        script.communicate(timeout=30)
    assert script.returncode == code
    assert got.read_text() == str(int(number)), "once, and the command could save"
    assert untouched(board)


def test_a_signal_while_the_command_starts_reaches_it_too(board, tmp_path):
    """Between the start and the moment its number is known; bash is held there by a trap of its own."""
    held, pid = tmp_path / "held", tmp_path / "pid"
    hold = tmp_path / "hold.sh"
    hold.write_text(f"set -T\ntrap 'if [[ $BASH_COMMAND == child=*! ]]; then touch {held}; sleep 1; fi' DEBUG\n")
    with board.start("power-mode.sh", "MAXN_SUPER", "--", *python(WAITS, pid), BASH_ENV=str(hold)) as script:
        wait_for(held)
        wait_for(pid)
        script.send_signal(signal.SIGTERM)
        script.communicate(timeout=30)
    assert script.returncode == 143 and untouched(board)
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


def test_a_command_that_is_killed(board, tmp_path):
    pid = tmp_path / "pid"
    with board.start("power-mode.sh", "MAXN_SUPER", "--", *python(WAITS, pid)) as script:
        wait_for(pid)
        time.sleep(0.1)
        os.kill(int(pid.read_text()), signal.SIGKILL)
        script.communicate(timeout=30)
    assert script.returncode == 137 and untouched(board)


def test_a_script_that_is_killed_is_made_good_by_the_next(board, tmp_path):
    pid = tmp_path / "pid"
    with board.start("power-mode.sh", "MAXN_SUPER", "--", *python(WAITS, pid)) as script:
        wait_for(pid)
        assert board.run("power-mode.sh", "15W", "--", "true").returncode == 6, "one at a time"
        assert "under way" in board.run("power-mode.sh", "--restore").stderr
        os.kill(script.pid, signal.SIGKILL)
        script.wait()
        os.kill(int(pid.read_text()), signal.SIGKILL)
    assert board.live == "MAXN_SUPER" and board.clocks == PINNED
    done = board.run("power-mode.sh", "--restore")
    assert done.returncode == 0 and untouched(board)
    assert "nothing to put back" in board.run("power-mode.sh", "--restore").stderr


def test_after_a_restart_of_the_board_only_the_mode_goes_back(board):
    power = board.state / "power"
    power.mkdir()
    (power / "state").write_text("pid=999999999\nboot=another\nmode=15W\n")
    (power / "before").write_text("old clocks\n")
    done = board.run("power-mode.sh", "MAXN_SUPER", "--", "true")
    assert "put back first" in done.stderr and board.live == "15W" and board.clocks == "free"


def test_after_a_power_loss_another_process_of_the_same_number_is_no_run(board):
    power = board.state / "power"
    power.mkdir()
    (power / "state").write_text(f"pid={os.getpid()}\nbegan=1\nboot=another\nmode=15W\n")
    done = board.run("power-mode.sh", "--restore")
    assert done.returncode == 0 and board.live == "15W" and not (power / "state").exists()


def test_what_others_may_write_is_never_given_to_root(board, tmp_path):
    (tmp_path / "theirs").mkdir()
    (board.state / "power").symlink_to(tmp_path / "theirs")
    done = board.run("power-mode.sh", "15W", "--", "true")
    assert done.returncode == 6 and "somebody else" in done.stderr and board.live == "25W" and board.as_root == []
    (board.state / "power").unlink()
    (board.state / "power").mkdir(mode=0o777)
    (board.state / "power").chmod(0o777)
    assert board.run("power-mode.sh", "15W", "--", "true").returncode == 0
    assert (board.state / "power").stat().st_mode & 0o022 == 0


def test_a_mode_that_cannot_be_told_is_not_changed(board):
    (board.root / "var/lib/nvpmodel/status").write_text("pmode:0009\n")
    done = board.run("power-mode.sh", "15W", "--", "true")
    assert done.returncode == 4 and "could not be put back" in done.stderr
    assert not any("nvpmodel -m" in line for line in board.log) and not (board.state / "power/state").exists()


def test_a_command_that_waits_for_a_terminal_ends_by_ctrl_c(board, tmp_path):
    """As `docker run -it` and a sudo that asks do: a process group in the background is stopped when it touches the terminal."""
    began = tmp_path / "began"
    touch = ("import os, sys, termios\nopen(sys.argv[1], 'w').close()\nassert not sys.stdin.isatty()\n"
             "f = os.open('/dev/tty', os.O_RDWR)\ntermios.tcsetattr(f, termios.TCSANOW, termios.tcgetattr(f))")
    script, terminal = pty.fork()
    if script == 0:
        os.execvpe(str(SCRIPTS / "power-mode.sh"), ["power-mode.sh", "MAXN_SUPER", "--", *python(touch, began)], board.environment)
    wait_for(began)
    time.sleep(0.3)  # until it has stopped; sooner, it is interrupted at work, which ends the same way
    said, until = b"", time.monotonic() + 30
    with contextlib.suppress(OSError):  # the other end is closed
        while time.monotonic() < until:
            os.write(terminal, b"\x03")  # again where the command stopped just after it had heard the first
            while select.select([terminal], [], [], 2)[0] and (piece := os.read(terminal, 4096)):
                said += piece
    if time.monotonic() >= until:
        os.kill(script, signal.SIGKILL)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(script, 0)[1]) == 130, said
    assert untouched(board)


def test_a_mode_that_cannot_be_set_starts_nothing_and_leaves_nothing(board, tmp_path):
    board.mark("refuses", "0")
    done = board.run("power-mode.sh", "15W", "--", "touch", str(tmp_path / "ran"))
    assert done.returncode == 3 and not (tmp_path / "ran").exists() and untouched(board)
    assert board.run("power-mode.sh", "nope", "--", "true").returncode == 2 and untouched(board)
    assert board.run("power-mode.sh", "15W", "--", "no-such-command").returncode == 127 and untouched(board)


def test_a_board_that_does_not_go_back_is_told_and_kept(board):
    board.mark("refuses", "1")
    done = board.run("power-mode.sh", "MAXN_SUPER", "--", "true")
    assert done.returncode == 1 and "--restore" in done.stderr and (board.state / "power/state").exists()
    board.mark("refuses")
    assert board.run("power-mode.sh", "--restore").returncode == 0 and untouched(board)


def test_changes_go_through_sudo_unless_root(tmp_path):
    board = ScriptBoard(tmp_path, uid=0)
    assert board.run("power-mode.sh", "15W").returncode == 0 and board.as_root == []
    user = ScriptBoard(tmp_path / "user")
    user.run("power-mode.sh", "15W")
    assert user.as_root == ["nvpmodel -m 0"]


def test_no_jetson(board):
    (board.root / "etc/nvpmodel.conf").unlink()
    done = board.run("power-mode.sh")
    assert done.returncode == 4 and "no Jetson" in done.stderr
