"""What a person looks at: the answer to a search as one HTML page with pictures."""
