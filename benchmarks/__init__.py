"""What the fast code is measured against, and the measuring."""
