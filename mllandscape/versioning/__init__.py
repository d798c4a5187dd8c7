"""What must be recorded of a training run for it to come back: the record, the store that holds it, and what it costs to lose a part."""
