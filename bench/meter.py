"""
Run a command and write its resource usage as JSON to file descriptor 3.

This is a separate small process, because the maximum resident size that the kernel reports for a
command includes that of the process it was forked from. The I/O counters are read after the command
ends and before it is reaped ("proc_pid_io(5)").
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
    usage_of_command = {
        "wall_s": wall_s,
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "resident": usage.ru_maxrss * 1024,
        "read": count["rchar"],
        "read_from_disk": count["read_bytes"],
    }
    with open(3, "w", encoding="ascii") as file:
        json.dump(usage_of_command, file)
    sys.exit(os.waitstatus_to_exitcode(status) and 1)


if __name__ == "__main__":
    main()
