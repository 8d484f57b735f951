"""What runs in a job. Starts fast: nothing here imports what a call may not need."""
