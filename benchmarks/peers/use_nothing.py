"""The floor: what the work costs without any package.

`one`, `elements`: sbatch of `true`, from its start until squeue shows no element any more (asked all
the time); beside it the same with `python -c pass`, which is what a call needs at least. `pilots`: an
array of 4 bare interpreters that call the function 25,000 times each; warm is such a loop alone. `warm`: a file
written, renamed and read on the shared disk. `rpcs`: an array of `sleep 2`, whose end is seen by files, so
that nobody asks Slurm. `pool`: the loop in one process.
"""

import os
import subprocess
import sys
import time

from driving import (
    ELEMENTS,
    PILOTS,
    SLOW_TASK_S,
    SLOW_TASKS,
    TASKS,
    check,
    counted_rpcs,
    drive,
    time_round_trips,
    timed,
)
from peer_tasks import nothing

LOOP = f"import peer_tasks\nfor n in range({TASKS // PILOTS}): peer_tasks.nothing(n)"
OPTIONS = ["--parsable", "--ntasks=1", "--output=/dev/null"]
BUSY = ("PENDING", "CONFIGURING", "RUNNING")


def output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def until_ended(*options: str) -> None:
    job = output("sbatch", *OPTIONS, *options)
    squeue = ["squeue", "--noheader", "--array", "--states=all", "--format=%T", f"--jobs={job}"]
    while any(state in BUSY for state in output(*squeue).split()):
        pass


def true_and_interpreter(*options: str) -> None:
    with timed("seconds"):
        until_ended(*options, "--wrap=true")
    with timed("seconds", "python -c pass"):
        until_ended(*options, f"--wrap={sys.executable} -c pass")


def one() -> None:
    true_and_interpreter()


def elements() -> None:
    true_and_interpreter(f"--array=0-{ELEMENTS - 1}")


def pilots() -> None:
    with timed("cold_s", tasks=TASKS):
        until_ended(f"--array=0-{PILOTS - 1}", f"--wrap={sys.executable} -c '{LOOP}'")
    with timed("warm_s", tasks=TASKS // PILOTS):
        check(map(nothing, range(TASKS // PILOTS)), TASKS // PILOTS)


def warm() -> None:
    def write_and_read() -> None:
        with open("answer.tmp", "wb") as file:
            file.write(b"answer")
        os.rename("answer.tmp", "answer")
        with open("answer", "rb") as file:
            file.read()

    time_round_trips(write_and_read)


def rpcs() -> None:
    os.mkdir("ended")
    script = f"sleep {SLOW_TASK_S}; : > ended/$SLURM_ARRAY_TASK_ID"
    with counted_rpcs():
        output("sbatch", *OPTIONS, f"--array=0-{SLOW_TASKS - 1}", f"--wrap={script}")
        while len(os.listdir("ended")) < SLOW_TASKS:
            time.sleep(0.05)


def pool() -> None:
    with timed("seconds", tasks=TASKS):
        check(map(nothing, range(TASKS)), TASKS)


if __name__ == "__main__":
    drive(one, elements, pilots, warm, rpcs, pool)
