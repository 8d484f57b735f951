"""Measures this package and its peers in turns, each in an environment of its own, on one Slurm.

Slurm is this machine's where there is sbatch, else dockered-slurm's. Everything runs from the root of
the checkout, which the containers have too, below one directory of it: wheels (downloaded here, as
containers may reach no index), environments and scratch space. So the same relative paths serve here
and there. Knows the rows' names and who may drive them; what a row does is the drivers' matter, and how
figures are shown that of report.py.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
PEERS = Path(__file__).parent / "peers"
_RUN_LIMIT_S = 150
_QUIET_LIMIT_S = 60


class Contender(NamedTuple):
    name: str
    driver: str
    pins: tuple[str, ...]


# Every version that is measured. What they need besides is what pip chooses for them.
CONTENDERS = (
    Contender("floor", "use_nothing", ()),
    Contender("cluster_tools", "use_checkout", ("cluster_tools",)),
    Contender("cluster_tools 4.3.3", "use_cluster_tools_4", ("cluster_tools==4.3.3",)),
    Contender("submitit", "use_submitit", ("submitit==1.5.4",)),
    Contender("executorlib", "use_executorlib", ("executorlib[cluster]==1.11.0",)),
    Contender("dask-jobqueue", "use_dask", ("dask-jobqueue==0.9.0", "dask[distributed]==2026.8.0")),
    Contender("parsl", "use_parsl", ("parsl==2026.10.26",)),
    Contender("joblib", "use_joblib", ("joblib==1.6.0",)),
    Contender("standard library", "use_standard_library", ()),
)
# How often each is measured in a row.
ROUNDS = {"one": 7, "elements": 3, "pilots": 3, "warm": 3, "rpcs": 3, "pool": 3}


class Place:
    """Where Slurm is: commands run there, in the root of the checkout."""

    def __init__(self, directory: str, python: str, *, here: bool = False) -> None:
        """`here`: on this machine, whether it has Slurm or not."""
        self.prefix: list[str] = []
        if not here and not shutil.which("sbatch"):
            # Bytecode is kept beside its source, as on any machine; an image may say otherwise.
            self.prefix = ["docker", "exec", "--env", "PYTHONPYCACHEPREFIX=", "slurmctld"]
        self.directory = directory
        self.python = python
        self.root = self.output("pwd")

    def output(self, *command: str) -> str:
        ran = subprocess.run([*self.prefix, *command], cwd=ROOT, capture_output=True, text=True)
        if ran.returncode:
            raise RuntimeError(f"{command} failed with status {ran.returncode}:\n{ran.stderr}")
        return ran.stdout.strip()

    def path(self, *parts: str) -> str:
        return "/".join((self.root, self.directory, *parts))

    def interpreter(self, contender: Contender) -> str:
        return self.path("environments", contender.driver, "bin", "python")

    def describe(self) -> dict[str, str]:
        model = self.output("sh", "-c", "grep -m1 'model name' /proc/cpuinfo | cut -d: -f2")
        memory = self.output("sh", "-c", "grep MemTotal /proc/meminfo | tr -s ' ' | cut -d' ' -f2")
        return {
            "processors": f"{self.output('nproc')} of {model.strip()}",
            "memory": f"{int(memory) / 2**20:.0f} GiB",
            "system": f"{platform.system()} {platform.release()}",
            "Slurm": self.output("sbatch", "--version") + (", dockered" if self.prefix else ""),
            "nodes": self.output("sinfo", "--noheader", "--format=%D with %c CPUs each"),
            "Python": self.output(self.python, "--version"),
            "date": datetime.date.today().isoformat(),
            "commit": subprocess.run(
                ["git", "describe", "--always", "--dirty"],
                cwd=ROOT,
                capture_output=True,
                text=True,
            ).stdout.strip(),
        }


def say(*words: object) -> None:
    print(*words, file=sys.stderr, flush=True)


def pip(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "pip", *arguments], cwd=ROOT, check=True)


def install(contender: Contender, place: Place) -> None:
    """Its environment, made again if its pins have changed, and always for this checkout."""
    wheels = Path(place.directory, "wheels", contender.driver)
    stamp = ROOT / place.directory / "environments" / f"{contender.driver}.pins"
    version = place.output(place.python, "-c", "import sys; print('%d.%d' % sys.version_info[:2])")
    wanted = " ".join((version, *contender.pins))
    if stamp.exists() and stamp.read_text() == wanted and contender.driver != "use_checkout":
        return
    say("making the environment of", contender.name)
    place.output("rm", "-rf", str(wheels), place.path("environments", contender.driver))
    own: list[str] = []
    if contender.driver == "use_checkout":
        pip("wheel", "--quiet", "--no-deps", "--wheel-dir", str(wheels), ".")
        own = [str(path) for path in (ROOT / wheels).glob("*.whl")]
    pip(
        *("download", "--quiet", "--dest", str(wheels), "--python-version", version),
        *("--only-binary=:all:", "pip", *(own or contender.pins)),
    )
    environment = str(Path(place.directory, "environments", contender.driver))
    place.output(place.python, "-m", "venv", "--without-pip", environment)
    installer = next((ROOT / wheels).glob("pip-*.whl")).name
    place.output(
        *("env", f"PYTHONPATH={wheels}/{installer}", place.interpreter(contender)),
        *("-m", "pip", "install", "--quiet", "--no-index", "--find-links", str(wheels)),
        *(contender.pins or ("pip",)),
    )
    stamp.write_text(wanted)


def command(contender: Contender, place: Place, row: str) -> list[str]:
    return [
        *place.prefix,
        *("timeout", "--kill-after=10", str(_RUN_LIMIT_S)),
        *("env", f"--chdir={place.path('scratch')}", f"PYTHONPATH={place.path('drivers')}"),
        f"PATH={place.path('environments', contender.driver, 'bin')}:{place.output('printenv', 'PATH')}",
        *(place.interpreter(contender), place.path("drivers", f"{contender.driver}.py"), row),
    ]


def wait_until_quiet(place: Place) -> None:
    """Until no job of the last run is left: they end by themselves, or are cancelled."""
    end = time.monotonic() + _QUIET_LIMIT_S
    while True:
        jobs = place.output("squeue", "--me", "--noheader", "--format=%A %Z").splitlines()
        left = [job.split()[0] for job in jobs if job.split()[1].startswith(place.path("scratch"))]
        if not left:
            return
        if time.monotonic() > end:
            place.output("scancel", *left)
            end += _QUIET_LIMIT_S
        time.sleep(0.5)


def measure(contender: Contender, place: Place, row: str) -> list[dict[str, Any]]:
    """What its driver tells in one run; `error` is the figure of one that fails."""
    place.output("rm", "-rf", place.path("scratch"))
    place.output("mkdir", "-p", place.path("scratch"))
    ran = subprocess.run(
        command(contender, place, row), cwd=ROOT, capture_output=True, text=True, errors="replace"
    )
    told = [json.loads(line) for line in ran.stdout.splitlines() if line.startswith("{")]
    if ran.returncode:
        why = (ran.stderr.strip().splitlines() or [""])[-1]
        if ran.returncode in (124, 137):
            why = f"not done after {_RUN_LIMIT_S} s"
        say(ran.stderr[-3000:])
        told.append({"variant": "", "error": why})
    wait_until_quiet(place)
    return [{"row": row, "contender": contender.name, **figures} for figures in told]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [contender.driver.removeprefix("use_") for contender in CONTENDERS]
    parser.add_argument("--rows", nargs="+", choices=ROUNDS, default=list(ROUNDS))
    parser.add_argument("--only", nargs="+", choices=names, default=names, help="contenders")
    parser.add_argument("--rounds", type=int, help=f"of each row (default: {ROUNDS})")
    parser.add_argument(
        "--directory", default=".benchmarks", help="below the checkout, shared with the nodes"
    )
    parser.add_argument("--python", default="python3", help="where Slurm is")
    parser.add_argument(
        "--draft", action="store_true", help="results into --directory, not over the last ones"
    )
    options = parser.parse_args()
    place = Place(options.directory, options.python)
    directory = ROOT / options.directory
    directory.mkdir(exist_ok=True)
    (directory / "environments").mkdir(exist_ok=True)
    contenders = [one for one in CONTENDERS if one.driver.removeprefix("use_") in options.only]
    shutil.copytree(PEERS, directory / "drivers", dirs_exist_ok=True)
    place.output("mkdir", "-p", place.path("scratch"))
    abouts: dict[str, Any] = {}
    for contender in contenders:
        install(contender, place)
        about = subprocess.run(
            command(contender, place, "about"),
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        abouts[contender.name] = {**json.loads(about.stdout), "pins": contender.pins}
    records: list[dict[str, Any]] = []
    began = time.monotonic()
    for row in options.rows:
        for number in range(options.rounds or ROUNDS[row]):
            drivers = [one for one in contenders if row in abouts[one.name]["rows"]]
            drivers = drivers[number % len(drivers) :] + drivers[: number % len(drivers)]
            for contender in drivers:
                since = time.monotonic()
                records += measure(contender, place, row)
                say(f"{row} {number + 1}: {contender.name}, {time.monotonic() - since:.1f} s")
    measured = {
        "machine": place.describe(),
        "minutes": (time.monotonic() - began) / 60,
        "contenders": abouts,
        "records": records,
    }
    (directory / "results.json").write_text(json.dumps(measured, indent=1))
    report(directory, directory if options.draft else Path(__file__).parent)


def report(directory: Path, target: Path) -> None:
    """Writes RESULTS.md and the plots, in an environment with the extra `benchmarks`."""
    python = directory / "environments" / "report" / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(python.parent.parent)], check=True)
        subprocess.run(
            [python, "-m", "pip", "install", "--quiet", ".[benchmarks]"], cwd=ROOT, check=True
        )
    words = [python, "-m", "benchmarks.report", directory / "results.json", target]
    subprocess.run(words, cwd=ROOT, check=True, env={**os.environ, "MPLCONFIGDIR": str(directory)})


if __name__ == "__main__":
    main()
