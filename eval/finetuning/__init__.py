"""Fine-tuning an encoder with a classification head."""
