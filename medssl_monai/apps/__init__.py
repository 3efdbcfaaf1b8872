"""The `medssl` command, one file a sub-command."""
