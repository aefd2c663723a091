"""Training on several workers through Ray Train."""
