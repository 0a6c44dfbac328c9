"""What a run leaves on disk for people to review: files become changes, and a separate step applies them."""
