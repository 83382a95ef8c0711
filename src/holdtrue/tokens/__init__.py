"""From conversations to token trees to batches, and the attention functions that read them."""
