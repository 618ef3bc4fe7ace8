"""Learn and choose: actions, policies, the churn model."""
