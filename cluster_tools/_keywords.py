"""The table of keywords: which strategy takes which, and what becomes of it on the others.

Knows names only. The factory reads it; tests check that each keyword has an entry.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, NamedTuple

from cluster_tools.caller import warn_caller

SEQUENTIAL = frozenset({"sequential", "sequential_with_pickling"})
POOLS = frozenset({"multiprocessing", "multiprocessing_with_pickling"})
CLUSTERS = frozenset({"local", "slurm", "gridengine", "kubernetes"})
BATCHING = frozenset({"batching"})
# Without `batching`, which passes keywords on to the executor that it wraps.
_ALL_THAT_RUN_CALLS = SEQUENTIAL | POOLS | CLUSTERS
_OURS = _ALL_THAT_RUN_CALLS | BATCHING


class Keyword(NamedTuple):
    """A keyword of `get_executor`.

    `taken_by`: the strategies whose class has it.
    `elsewhere`: why it has no effect on the others, which ignore it.
    """

    taken_by: frozenset[str]
    elsewhere: str

    @property
    def is_ignored_nowhere(self) -> bool:
        """All strategies that run calls take it."""
        return self.taken_by == _ALL_THAT_RUN_CALLS


_NO_JOBS = "there are no jobs"
_NO_POOL = "no pool of multiprocessing starts processes"
_NO_BATCHES = "calls are in no batches"

KEYWORDS: Mapping[str, Keyword] = {
    # These change results or promises, so no strategy ignores them.
    "initargs": Keyword(_ALL_THAT_RUN_CALLS, ""),
    "initializer": Keyword(_ALL_THAT_RUN_CALLS, ""),
    "max_workers": Keyword(_ALL_THAT_RUN_CALLS, ""),
    "output_store": Keyword(_ALL_THAT_RUN_CALLS, ""),
    #
    "max_tasks_per_child": Keyword(POOLS, "no process takes call after call, but for pilots"),
    "mp_context": Keyword(POOLS, _NO_POOL),
    "start_method": Keyword(POOLS, _NO_POOL),
    #
    "additional_setup_lines": Keyword(CLUSTERS, _NO_JOBS),
    "cfut_dir": Keyword(CLUSTERS, _NO_JOBS),
    "client_timeout_s": Keyword(CLUSTERS, _NO_JOBS),
    "command_prefix": Keyword(CLUSTERS, _NO_JOBS),
    "debug": Keyword(CLUSTERS, _NO_JOBS),
    "job_name": Keyword(CLUSTERS, _NO_JOBS),
    "job_resources": Keyword(CLUSTERS, _NO_JOBS),
    "keep_jobs_on_exit": Keyword(CLUSTERS, _NO_JOBS),
    "keep_logs": Keyword(CLUSTERS, _NO_JOBS),
    "linger_s": Keyword(CLUSTERS, _NO_JOBS),
    "logging_config": Keyword(CLUSTERS, "records reach this process's handlers"),
    "logging_setup_fn": Keyword(CLUSTERS, "records reach this process's handlers"),
    "pending_timeout_s": Keyword(CLUSTERS, _NO_JOBS),
    "pilot_idle_timeout_s": Keyword(CLUSTERS, _NO_JOBS),
    "pilot_jobs": Keyword(CLUSTERS, _NO_JOBS),
    "python_executable": Keyword(CLUSTERS, _NO_JOBS),
    "trust_group": Keyword(CLUSTERS, _NO_JOBS),
    #
    "batch_size": Keyword(BATCHING, _NO_BATCHES),
    "executor": Keyword(BATCHING, _NO_BATCHES),
    "target_job_count": Keyword(BATCHING, _NO_BATCHES),
}

# Names of resources of Slurm, Kubernetes, Grid Engine, PBS and LSF, and of packages for them. As
# keywords they would have no effect, and jobs would run elsewhere than the user wants.
_RESOURCE_NAMES = """
account accounting_group acctg_freq annotations bb bbf begin client_lease_s cluster_constraint
clusters comment constraint container context contiguous core_spec cores cores_per_socket cpu
cpu_bind cpu_freq cpus cpus_per_gpu cpus_per_task deadline delay_boot dependency distribution
exclude exclusive export export_file extra_node_info feature gid gpu gpu_bind gpu_freq gpus
gpus_per_node gpus_per_socket gpus_per_task gres gres_flags h_rt h_vmem hint hold hold_jid image
image_pull_policy image_pull_secrets labels licenses mail_type mail_user mcs_label mem mem_bind
mem_per_cpu mem_per_gpu memory mincpus mounts namespace network nice no_kill no_requeue
node_selector nodefile nodelist nodes ntasks ntasks_per_core ntasks_per_gpu ntasks_per_node
ntasks_per_socket overcommit oversubscribe parallel_environment parallelism partition pe
pod_template power ppn prefer priority priority_class project propagate qos queue reboot requeue
reservation resource_spec run_as s_rt s_vmem service_account shm_size signal sockets_per_node
spread_job startup_timeout_s switches thread_spec threads_per_core time time_limit time_limit_s
time_min tmp tolerations tres_bind tres_per_task umask use_min_nodes vmem walltime wckey
"""
_RESOURCE_WORDS = frozenset(_RESOURCE_NAMES.split())
# Names that other packages have for our keywords.
_OTHER_NAMES = {
    "n_jobs": "max_workers",
    "nprocs": "max_workers",
    "num_procs": "max_workers",
    "processes": "max_workers",
}


def check_keywords(keywords: Mapping[str, Any]) -> None:
    """Refuses names of resources, and warns of keywords that no strategy takes.

    Raises:
        ValueError: A keyword is one of `job_resources`.
    """
    unknown = sorted(keywords.keys() - KEYWORDS.keys())
    misplaced = {word: keywords[word] for word in unknown if _is_for_the_scheduler(word)}
    if misplaced:
        raise ValueError(
            f"{', '.join(misplaced)}: what a job asks the scheduler for belongs in job_resources: "
            f"job_resources={misplaced!r}. At the top level it would have no effect"
        )
    for word in unknown:
        warn_caller(f"no strategy takes the keyword {word}; it is ignored{_suggestion(word)}")


def _is_for_the_scheduler(word: str) -> bool:
    spelled = _spelled(word)
    return spelled in _RESOURCE_WORDS or len(spelled) == 1  # sbatch -c 4


def _spelled(word: str) -> str:
    return word.strip("-_").replace("-", "_").lower()


def _suggestion(word: str) -> str:
    spelled = _spelled(word)
    known = _OTHER_NAMES.get(spelled)
    if known is None:
        alike = difflib.get_close_matches(spelled, [*KEYWORDS, *_RESOURCE_WORDS], n=1)
        if not alike:
            return ""
        known = alike[0]
    if known in KEYWORDS:
        return f". Did you mean {known}?"
    return f". Did you mean job_resources={{{known!r}: ...}}?"


def taken(strategy: str, keywords: Mapping[str, Any]) -> dict[str, Any]:
    """Those of `keywords` that the strategy's class takes.

    A strategy of another package takes the keywords of all clusters.
    """
    takers = {strategy} if strategy in _OURS else CLUSTERS
    return {
        word: value
        for word, value in keywords.items()
        if word in KEYWORDS and takers <= KEYWORDS[word].taken_by
    }


def handed_on(keywords: Mapping[str, Any], inner: Mapping[str, Any]) -> dict[str, Any]:
    """The keywords of the executor that `batching` wraps: its own, and those of `batching`.

    Arguments:
        keywords: Those of `batching`.
        inner: Those in its `executor`, which count more.

    Raises:
        ValueError: A keyword that no strategy ignores has different values in both.
    """
    outer = {
        word: value
        for word, value in keywords.items()
        if word in KEYWORDS and KEYWORDS[word].taken_by != BATCHING
    }
    both = {**outer, **inner}
    for word in outer.keys() & inner.keys():
        if not KEYWORDS[word].is_ignored_nowhere:
            continue
        if _is_given(inner[word]) and _is_given(outer[word]):
            if not _is_same(inner[word], outer[word]):
                raise ValueError(
                    f"{word} is given twice: {outer[word]!r} to batching, and {inner[word]!r} in "
                    "its executor"
                )
        elif _is_given(outer[word]):
            both[word] = outer[word]
    return both


def _is_given(value: object) -> bool:
    return value is not None and value != ()


def _is_same(one: object, other: object) -> bool:
    try:
        return one is other or bool(one == other)
    except Exception:  # of arrays, for example, == has no truth value
        return False
