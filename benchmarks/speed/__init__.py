"""What ranking ten thousand models costs, beside what it would cost plainly, in one run."""
