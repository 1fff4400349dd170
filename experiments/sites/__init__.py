"""Sites, machines of their own with images of their own: what one is told, says, logs and runs."""
