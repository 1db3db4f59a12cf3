"""What each way of keeping token vectors costs: bytes, score error, quality, time."""
