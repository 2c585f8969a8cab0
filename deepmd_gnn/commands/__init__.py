"""The subcommands of ``deepmd-gnn``, a module each. None imports torch before it runs."""
