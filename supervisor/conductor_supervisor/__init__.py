"""The supervisor: owns the database, the clock and the windows, decides everything, runs no user code."""
