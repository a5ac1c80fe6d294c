"""The testbed: tiny checkpoints with planted blind spots, and how they are made."""
