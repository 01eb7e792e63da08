"""What encoding a query costs, with torch and without, and what an install without it weighs."""
