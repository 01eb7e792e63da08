"""What publishing costs beside the bare loop that draws the same pictures."""
