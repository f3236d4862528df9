"""Child processes: how they are started, listened to, stopped and reaped."""
