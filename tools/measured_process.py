"""Runs a command and measures it: wall time, CPU time and memory of all its processes, and what others used meanwhile."""

import os
import signal
import subprocess
import threading
import time
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
SAMPLE_SECONDS = 0.2
LAUNCHERS = ("mpirun", "orterun", "orted", "prted")  # their memory is none of a rank's


def busy_seconds(cpus):
    """CPU seconds that these CPUs have worked, or were taken by other guests (steal), since the machine started."""
    total = 0
    for line in Path("/proc/stat").read_text(encoding="ascii").splitlines():
        name, *fields = line.split()
        if name.startswith("cpu") and name[3:].isdigit() and int(name[3:]) in cpus:
            user, nice, system, _, _, irq, soft_irq, steal = map(int, fields[:8])
            total += user + nice + system + irq + soft_irq + steal
    return total / TICKS


def processes_below(root):
    """The process and all its descendants."""
    children = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            try:
                parent = int(Path(entry.path, "stat").read_text(errors="replace").rpartition(")")[2].split()[1])
            except (OSError, IndexError):  # it has ended
                continue
            children.setdefault(parent, []).append(int(entry.name))
    found = [root]
    for process in found:
        found += children.get(process, [])
    return found


def peak_bytes(process):
    """The largest resident memory that it had so far; None for what starts others, or has ended."""
    try:
        lines = dict(line.split(":", 1) for line in Path(f"/proc/{process}/status").read_text(errors="replace").splitlines())
        return None if lines["Name"].strip() in LAUNCHERS else int(lines["VmHWM"].split()[0]) * 1024
    except (OSError, KeyError):
        return None


class MemoryWatch(threading.Thread):
    """Samples the peak of each process below `root` until it is stopped."""

    def __init__(self, root):
        super().__init__(daemon=True)
        self.root, self.ended, self.peaks = root, threading.Event(), {}

    def run(self):
        while not self.ended.wait(SAMPLE_SECONDS if self.peaks else 0.02):
            for process in processes_below(self.root):
                if peak := peak_bytes(process):
                    self.peaks[process] = peak


def measure(command, log, cpus, environment, directory):
    """Runs it on `cpus` with its output in the file `log`. Returns exit code, wall and CPU seconds, the sum of its processes'
    peaks of memory in bytes, and the CPU seconds that others used on these CPUs, as a share of what there was."""
    start, before = time.perf_counter(), busy_seconds(cpus)
    with open(log, "wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, cwd=directory,
                                   env=environment, start_new_session=True, preexec_fn=lambda: os.sched_setaffinity(0, cpus))
    watch = MemoryWatch(process.pid)
    watch.start()
    try:
        _, status, usage = os.wait4(process.pid, 0)  # with all that it waited for itself
    except BaseException:
        os.killpg(process.pid, signal.SIGTERM)
        raise
    finally:
        watch.ended.set()
    wall = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    cpu = usage.ru_utime + usage.ru_stime
    others = max(0.0, busy_seconds(cpus) - before - cpu) / ((time.perf_counter() - start) * len(cpus))
    watch.join()
    return {"exit": process.returncode, "wall_seconds": wall, "cpu_seconds": cpu, "peak_bytes": sum(watch.peaks.values()),
            "others": others}
