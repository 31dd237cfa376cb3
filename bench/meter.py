"""
Runs a command and says what it took, as JSON on file descriptor 3.

A process of its own, and a small one: the largest resident size that the kernel reports for a
command begins with that of the process it was forked from.
"""

import json
import os
import resource
import sys
import time


def main() -> None:
    started = time.monotonic()
    process = os.posix_spawnp(sys.argv[1], sys.argv[1:], os.environ)
    _, status = os.waitpid(process, 0)
    wall_s = time.monotonic() - started
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    taken = {
        "wall_s": wall_s,
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "resident": usage.ru_maxrss * 1024,
    }
    with open(3, "w", encoding="ascii") as file:
        json.dump(taken, file)
    sys.exit(os.waitstatus_to_exitcode(status) and 1)


if __name__ == "__main__":
    main()
