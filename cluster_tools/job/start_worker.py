"""What a job's interpreter is given: starts the worker from its compiled file.

A script given by path is compiled anew each time, which for the worker
costs more than all its imports.
"""

import os
import sys

if not (sys.flags.isolated or getattr(sys.flags, "safe_path", False)):
    # This file's folder: its modules must not be found under their bare names.
    del sys.path[0]
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

from cluster_tools.job.worker import main

sys.exit(main(sys.argv[1:]))
