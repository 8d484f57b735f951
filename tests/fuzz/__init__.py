"""Random programs under random faults, by seed and seconds: what no one has thought of.

From the directory `tests`, one strategy at a time; the last line is a round that failed, by itself:

    python -m fuzz local --seed 7 --seconds 3600
    python -m fuzz local --seed 7 --round 12

Strategies: multiprocessing, local, local-pilots; and where sbatch is slurm, slurm-pilots.

    rounds.py: starts a process for each round, with a time limit; nothing of it may be left
      |
      |-- cluster_round.py: threads --program.py--> executor --calls.py--> jobs
      |         |                                      ^                    ^  \\--notes--> file
      |         |                                      '---- faults.py -----'
      |         '-- ledger.py: futures and notes against what may have become of each call
      |
      '-- pool_round.py: the same program on our pool and on the standard library's, compared

All that is random in a round comes from its seed, and each thread has a sequence of its own. What
the threads meet depends on time all the same: a round that failed is worth several tries.
"""
