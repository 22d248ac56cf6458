"""What a model's calibration data is and what it says: sources, observers, statistics. Knows no format, no model."""
