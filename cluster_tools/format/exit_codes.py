"""What a job ends with that could not do its work."""

# Exit codes of a worker that could not do its work, from sysexits.h; a call's own failure is an output
# and exits 0.
EXIT_NO_PACKAGE = 69
EXIT_NO_WORKING_DIRECTORY = 72
EXIT_OUTPUT_NOT_WRITTEN = 74
EXIT_REFUSED = 77
EXIT_NO_ARRAY = 78
# What the worker, or what starts it, ends with when it has something to say.
OWN_EXIT_CODES = (EXIT_NO_PACKAGE, EXIT_OUTPUT_NOT_WRITTEN, EXIT_REFUSED, EXIT_NO_ARRAY)
