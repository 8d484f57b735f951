"""What a job's interpreter is given: starts the worker from its compiled file.

A script given by path is compiled anew each time, which for the worker costs more than all its imports.
"""

import os
import sys

# Guarded: it is the main module of a job that submits jobs of its own, and they import it.
if __name__ == "__main__":
    if not getattr(sys.flags, "safe_path", False):
        del sys.path[
            0
        ]  # this file's folder, whose modules must not be found under their bare names
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

    from cluster_tools.worker import main

    sys.exit(main(sys.argv[1:]))
