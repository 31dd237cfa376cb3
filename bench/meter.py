"""
Runs a command and says what it took, as JSON on file descriptor 3.

A process of its own, and a small one: the largest resident size that the kernel reports for a
command begins with that of the process it was forked from. What was read is asked for between the
command's end and its burial ("proc_pid_io(5)").
"""

import json
import os
import resource
import sys
import time


def main() -> None:
    started = time.monotonic()
    process = os.posix_spawnp(sys.argv[1], sys.argv[1:], os.environ)
    os.waitid(os.P_PID, process, os.WEXITED | os.WNOWAIT)
    wall_s = time.monotonic() - started
    with open(f"/proc/{process}/io", encoding="ascii") as file:
        count = {name: int(value) for name, _, value in (line.partition(":") for line in file)}
    _, status = os.waitpid(process, 0)
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    taken = {
        "wall_s": wall_s,
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "resident": usage.ru_maxrss * 1024,
        "read": count["rchar"],
        "read_from_disk": count["read_bytes"],
    }
    with open(3, "w", encoding="ascii") as file:
        json.dump(taken, file)
    sys.exit(os.waitstatus_to_exitcode(status) and 1)


if __name__ == "__main__":
    main()
