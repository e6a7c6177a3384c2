"""The four commands: argv, settings, signals and exit codes; no logic."""
