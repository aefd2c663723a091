"""What the papers show beside accuracy, each as a command with a picture and its numbers."""
