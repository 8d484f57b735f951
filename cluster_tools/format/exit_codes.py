"""Exit codes of a job that could not run its call or write its output, from sysexits.h.

A call that raises is no such job: its failure is written as an output, and the exit code is 0.
"""

EXIT_NO_PACKAGE = 69
EXIT_NO_WORKING_DIRECTORY = 72
EXIT_OUTPUT_NOT_WRITTEN = 74
EXIT_REFUSED = 77
EXIT_NO_ARRAY = 78
# Those with which the job's log has a message that says why.
OWN_EXIT_CODES = (EXIT_NO_PACKAGE, EXIT_OUTPUT_NOT_WRITTEN, EXIT_REFUSED, EXIT_NO_ARRAY)
