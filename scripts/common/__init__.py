"""What two programs share."""
