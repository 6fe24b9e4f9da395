"""The verbs behind the commands."""
