"""What ships: files of a final in the formats that devices take, each proven in its own runtime."""
