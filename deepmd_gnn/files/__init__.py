"""Files of models, looked at before anything executes them, and written whole or not at all."""
