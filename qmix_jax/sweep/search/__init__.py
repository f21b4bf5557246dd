"""The search for good settings: `hydra/sweeper=optuna`, with Optuna's samplers and pruners over any launcher."""
