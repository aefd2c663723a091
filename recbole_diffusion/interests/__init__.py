"""What conditions the reverse chain: a user's history."""
