"""The programs that run in jobs. They start fast: nothing here imports what a call may not need."""
