"""What a dtype costs: differences of vectors and scores, and of a ranking's quality."""
