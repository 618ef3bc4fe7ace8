"""What Croupier costs beside its peers, measured from a checkout; outside the wheel, and imported by no part of it."""
