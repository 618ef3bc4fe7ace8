"""Train, evaluate and promote the churn model."""
