"""What makes training fast or possible on CPUs."""
