"""The parts of a training run: the stream of batches, the checkpoint, the log."""
