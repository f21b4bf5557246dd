"""Training as pure functions: rollout, replay, targets, losses, learner, trainer, evaluation."""
